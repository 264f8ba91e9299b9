"""What each server must still do for the Python SDK's client, check by check.

It stands apart from `peer.py` so that the list of what MCP offers reads without the plumbing.
A check never prints and never skips: it returns a short detail or raises.
"""

import base64
import json
import os

import anyio
import mcp_types as types
from mcp import MCPError
from mcp.client.subscriptions import ResourceUpdated

HANDSHAKE = {"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"}




async def refused(call, *codes):
    """The call must be answered with a JSON-RPC error of one of these codes."""
    try:
        answer = await call
    except MCPError as error:
        assert error.error.code in codes, error
        return
    raise AssertionError(f"answered instead of refused: {answer}")


# --- server-everything -----------------------------------------------------------------------


def modern(p):
    """Whether the client speaks 2026-07-28, which has no handshake and no requests of servers."""
    return p.client.protocol_version >= "2026-07-28"


async def initialize(p):
    """A revision was agreed and the server's capabilities arrived."""
    has = p.client.server_capabilities
    assert modern(p) or p.client.protocol_version in HANDSHAKE, p.client.protocol_version
    for capability in ("tools", "resources", "prompts", "logging", "completions"):
        assert getattr(has, capability) is not None, f"{capability} is not offered"
    return p.client.server_info.name


async def ping(p):
    if modern(p):
        return await refused(p.client.send_ping(), -32601)
    await p.client.send_ping()


async def tools(p):
    """Every page of the list, a call, structured content and an image."""
    names, cursor = [], None
    for _ in range(50):
        page = await p.client.list_tools(cursor=cursor, cache_mode="refresh")
        names += [tool.name for tool in page.tools]
        cursor = page.next_cursor
        if cursor is None:
            break
    for bare in ("echo", "get-sum", "get-structured-content"):
        assert p.name(bare) in names, f"{p.name(bare)} is not in {names}"
    assert len(names) == len(set(names)), "a name is listed twice"
    assert await p.text("echo", {"message": "hi \u2028 \U0001f9ca"}) == "Echo: hi \u2028 \U0001f9ca"
    assert "42" in await p.text("get-sum", {"a": 19, "b": 23})
    weather = await p.call("get-structured-content", {"location": "Chicago"})
    assert weather.structured_content["temperature"] is not None
    image = await p.call("get-tiny-image", {})
    png = next(item for item in image.content if item.type == "image")
    assert base64.b64decode(png.data).startswith(b"\x89PNG")
    return f"{len(names)} tools"


async def tool_errors(p):
    """Wrong arguments and an unknown tool are answered as errors, and the session lives on."""
    wrong = await p.call("get-sum", {"a": "x"})
    assert wrong.is_error, wrong
    try:
        unknown = await p.call("no-such-tool", {})
        assert unknown.is_error, unknown
    except MCPError as error:
        assert error.error.code == -32602, error
    assert await p.text("echo", {"message": "still here"}) == "Echo: still here"


async def resources(p):
    """Lists, templates, text, blob, and the error for what does not exist."""
    listed = (await p.client.list_resources(cache_mode="refresh")).resources
    assert listed, "no resource is listed"
    first = await p.client.read_resource(str(listed[0].uri), cache_mode="refresh")
    assert first.contents[0].text
    templates = (await p.client.list_resource_templates(cache_mode="refresh")).resource_templates
    assert any("dynamic/text" in t.uri_template for t in templates), templates
    text = await p.client.read_resource("demo://resource/dynamic/text/1")
    assert "Resource 1" in text.contents[0].text, text.contents[0].text
    blob = await p.client.read_resource("demo://resource/dynamic/blob/2")
    assert base64.b64decode(blob.contents[0].blob)
    await refused(p.client.read_resource("demo://no/such/resource"), -32602, -32002)
    return f"{len(listed)} resources, {len(templates)} templates"


async def prompts(p):
    names = [prompt.name for prompt in (await p.client.list_prompts(cache_mode="refresh")).prompts]
    assert p.name("args-prompt") in names, names
    simple = await p.client.get_prompt(p.name("simple-prompt"))
    assert simple.messages[0].content.text
    filled = await p.client.get_prompt(p.name("args-prompt"), {"city": "Seoul", "state": "KR"})
    assert "Seoul" in filled.messages[0].content.text
    embedded = await p.client.get_prompt(p.name("resource-prompt"), {"resourceType": "Text", "resourceId": "3"})
    assert any(m.content.type == "resource" for m in embedded.messages)
    return f"{len(names)} prompts"


async def completion(p):
    """A prompt's argument, with and without context, and a template's."""
    ref = types.PromptReference(type="ref/prompt", name=p.name("completable-prompt"))
    answer = await p.client.complete(ref, {"name": "department", "value": "S"})
    assert answer.completion.values == ["Sales", "Support"], answer.completion.values
    answer = await p.client.complete(ref, {"name": "name", "value": ""}, {"department": "Sales"})
    assert answer.completion.values == ["David", "Eve", "Frank"], answer.completion.values
    template = types.ResourceTemplateReference(
        type="ref/resource", uri="demo://resource/dynamic/text/{resourceId}"
    )
    answer = await p.client.complete(template, {"name": "resourceId", "value": "7"})
    assert answer.completion.values == ["7"], answer.completion.values


async def sampling(p):
    text = await p.text("trigger-sampling-request", {"prompt": "what is chill", "maxTokens": 7})
    assert "sampled:" in text and "what is chill" in text, text
    assert p.sampled[-1].max_tokens == 7


async def elicitation(p):
    text = await p.text("trigger-elicitation-request", {})
    assert "Mina" in text, text
    assert p.elicited[-1].requested_schema["properties"]["name"]


async def roots(p):
    """The server asked for the roots and shows what this host answered."""
    if modern(p):
        # It asks between calls, where such a host cannot be asked; the tool says that it has none.
        return await p.text("get-roots-list", {})
    await p.until("the server's roots/list", lambda: p.roots_asked > 0)
    assert "interop-root" in await p.text("get-roots-list", {})
    asked = p.roots_asked
    await p.client.send_roots_list_changed()
    await p.until("roots/list after roots/list_changed", lambda: p.roots_asked > asked)


async def progress(p):
    seen = []

    async def on_progress(done, total, _message):
        seen.append((done, total))

    await p.text(
        "trigger-long-running-operation", {"duration": 0.6, "steps": 4}, progress_callback=on_progress
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)], seen


async def logging(p):
    """Log messages follow the level, and stop below it."""
    if modern(p):
        return await refused(p.client.set_logging_level("debug"), -32601)
    await p.client.set_logging_level("debug")
    before = len(p.logs)
    await p.text("toggle-simulated-logging", {})
    await p.until("a log message", lambda: len(p.logs) > before)
    await p.text("toggle-simulated-logging", {})
    return p.logs[-1].level


async def subscriptions(p):
    uri = "demo://resource/dynamic/text/1"
    if modern(p):
        return await listening(p, uri)
    await p.client.subscribe_resource(uri)

    def updates():
        return [n for n in p.notes if isinstance(n, types.ResourceUpdatedNotification)]

    before = len(updates())
    await p.text("toggle-subscriber-updates", {})
    await p.until("notifications/resources/updated", lambda: len(updates()) > before)
    assert str(updates()[-1].params.uri) == uri
    await p.text("toggle-subscriber-updates", {})
    await p.client.unsubscribe_resource(uri)


async def listening(p, uri):
    """The same since 2026-07-28: one request that lasts as long as the host listens."""
    async with p.client.listen(tools_list_changed=True, resource_subscriptions=[uri]) as heard:
        assert heard.honored.resource_subscriptions == [uri], heard.honored
        assert heard.honored.tools_list_changed, heard.honored
        await p.text("toggle-subscriber-updates", {})
        with anyio.fail_after(15):
            async for event in heard:
                if isinstance(event, ResourceUpdated):
                    assert str(event.uri) == uri, event
                    break
        await p.text("toggle-subscriber-updates", {})


async def cancellation(p):
    """A cancelled call frees the host at once; the session and the server go on."""
    started = anyio.current_time()
    with anyio.move_on_after(0.4) as scope:
        await p.call("trigger-long-running-operation", {"duration": 60, "steps": 60})
    assert scope.cancelled_caught, "the call ended before it was cancelled"
    assert await p.text("echo", {"message": "after"}) == "Echo: after"
    assert anyio.current_time() - started < 10, "the cancelled call held the session"


async def concurrency(p):
    """Fifty calls at once, each with its own answer."""
    wrong = []

    async def one(n):
        if await p.text("echo", {"message": f"n{n}"}) != f"Echo: n{n}":
            wrong.append(n)

    async with anyio.create_task_group() as group:
        for n in range(50):
            group.start_soon(one, n)
    assert not wrong, wrong


# --- server-filesystem, server-memory --------------------------------------------------------


async def files(p):
    """Write, read back byte for byte, list; what lies outside the root is refused."""
    path = os.path.join(p.root, "note-python.txt")
    body = "first\nsecond \u00e9 \u2028 end\n" * 2000
    await p.text("write_file", {"path": path, "content": body})
    with open(path, encoding="utf-8") as file:
        assert file.read() == body, "the file on disk differs"
    assert await p.text("read_text_file", {"path": path}) == body
    assert "note-python.txt" in await p.text("list_directory", {"path": p.root})
    outside = await p.call("read_text_file", {"path": "/etc/hostname"})
    assert outside.is_error and "denied" in outside.content[0].text.lower(), outside


async def memory(p):
    mark = f"python-{os.getpid()}"
    await p.text(
        "create_entities",
        {"entities": [{"name": mark, "entityType": "test", "observations": ["is chill"]}]},
    )
    graph = await p.call("read_graph", {})
    assert any(e["name"] == mark for e in graph.structured_content["entities"]), graph
    assert mark in await p.text("search_nodes", {"query": mark})
    await p.text("delete_entities", {"entityNames": [mark]})
    assert mark not in await p.text("search_nodes", {"query": mark})


# --- fast_server.py (fastmcp), mcp-server-time -----------------------------------------------


async def fast_tools(p):
    names = [tool.name for tool in (await p.client.list_tools(cache_mode="refresh")).tools]
    assert p.name("add") in names, names
    answer = await p.call("add", {"a": 20, "b": 22})
    assert answer.structured_content == {"result": 42}, answer.structured_content
    failing = await p.call("fail", {"why": "on purpose"})
    assert failing.is_error and "on purpose" in failing.content[0].text, failing
    big = await p.text("blob", {"size": 300_000})
    assert big == "x" * 300_000, len(big)


async def fast_resources(p):
    listed = [str(r.uri) for r in (await p.client.list_resources(cache_mode="refresh")).resources]
    assert "fast://motto" in listed, listed
    assert (await p.client.read_resource("fast://motto")).contents[0].text == "Chill first."
    greeting = await p.client.read_resource("fast://greet/Mina")
    assert greeting.contents[0].text == "Hello, Mina", greeting


async def fast_prompts(p):
    prompt = await p.client.get_prompt(p.name("ask_break"), {"minutes": "7"})
    assert "7 minutes" in prompt.messages[0].content.text


async def fast_talks_back(p):
    """Progress, a log line, sampling and elicitation within one call."""
    if modern(p):
        # Between two of 2026-07-28, with or without chillgate, this tool cannot ask in its old way.
        answer = await p.call("talk_back", {})
        assert answer.is_error and "back-channel" in answer.content[0].text, answer
        return "refused by the tool itself"
    await talks_back_in_the_old_way(p)


async def talks_back_in_the_old_way(p):
    seen = []

    async def on_progress(done, _total, _message):
        seen.append(done)

    before = len(p.logs)
    text = await p.text("talk_back", {}, progress_callback=on_progress)
    said = json.loads(text)
    assert said["sampled"].startswith("sampled: "), said
    assert said["elicited"] == "blue", said
    assert seen == [1, 2], seen
    await p.until("the log line", lambda: len(p.logs) > before)


# --- new_server.py: a server of 2026-07-28 ----------------------------------------------------


async def new_tools(p):
    names = [tool.name for tool in (await p.client.list_tools(cache_mode="refresh")).tools]
    assert p.name("add") in names, names
    answer = await p.call("add", {"a": 20, "b": 22})
    assert answer.structured_content == {"result": 42}, answer.structured_content
    failing = await p.call("fail", {"why": "on purpose"})
    assert failing.is_error and "on purpose" in failing.content[0].text, failing
    assert (await p.client.get_prompt(p.name("ask_break"), {"minutes": "7"})).messages
    listed = [str(r.uri) for r in (await p.client.list_resources(cache_mode="refresh")).resources]
    assert "board://now" in listed, listed
    assert (await p.client.read_resource("board://old/monday")).contents[0].text == "nothing on monday"
    await refused(p.client.read_resource("board://no/such/thing/at/all"), -32602, -32002)


async def new_questions(p):
    """A person, a model and the roots within one call; then question after question."""
    said = json.loads(await p.text("three", {}))
    assert said["who"]["name"] == "Mina", said
    assert said["what"] == "sampled: what is chill?", said
    assert said["where"] == [f"file://{p.root}"], said
    asked = len(p.elicited)
    said = json.loads(await p.text("rounds", {"upto": 4}))
    assert said == ["Mina"] * 4, said
    assert len(p.elicited) == asked + 4, p.elicited


async def new_progress(p):
    seen = []

    async def on_progress(done, _total, _message):
        seen.append(done)

    before = len(p.logs)
    assert await p.text("steps", {"count": 5}, progress_callback=on_progress) == "done"
    assert seen == [1, 2, 3, 4, 5], seen
    await p.until("five log lines", lambda: len(p.logs) >= before + 5)


async def new_subscriptions(p):
    """A resource is told of when it changes, and the list of tools as well."""
    if modern(p):
        async with p.client.listen(tools_list_changed=True, resource_subscriptions=["board://now"]) as told:
            await p.text("pin", {"text": "hello"})
            seen = set()
            with anyio.fail_after(10):
                async for event in told:
                    seen.add(type(event).__name__)
                    if len(seen) == 2:
                        break
        return str(sorted(seen))
    before = len(p.notes)
    await p.client.subscribe_resource("board://now")
    await p.text("pin", {"text": "hello"})

    def told(kind):
        return any(type(getattr(note, "root", note)).__name__ == kind for note in p.notes[before:])

    await p.until("the update", lambda: told("ResourceUpdatedNotification"))
    await p.until("the list change", lambda: told("ToolListChangedNotification"))
    await p.client.unsubscribe_resource("board://now")


async def new_concurrency(p):
    """Twenty calls at a time, some of which ask: each has its own answer."""

    async def one(n):
        if n % 4 == 0:
            return json.loads(await p.text("rounds", {"upto": 2})) == ["Mina"] * 2
        return (await p.call("add", {"a": n, "b": 1000})).structured_content == {"result": n + 1000}

    results = [False] * 20
    async with anyio.create_task_group() as group:

        async def into(n):
            results[n] = await one(n)

        for n in range(20):
            group.start_soon(into, n)
    assert all(results), results


async def crowd(p):
    """One of many: what this client was asked is what it gets, several times over."""
    for turn in range(2):
        text = await p.text("trigger-elicitation-request", {})
        assert f"- Name: {p.who}\n" in f"{text}\n", text
        prompt = f"{p.who}, {turn}"
        text = await p.text("trigger-sampling-request", {"prompt": prompt, "maxTokens": 7})
        assert f"sampled: Resource trigger-sampling-request context: {prompt}\"" in text, text
    assert (len(p.elicited), len(p.sampled)) == (2, 2), (len(p.elicited), len(p.sampled))


async def new_crowd(p):
    """The same with a server that asks in its answers."""
    said = json.loads(await p.text("three", {}))
    assert said["who"]["name"] == p.who, said
    assert said["what"] == "sampled: what is chill?", said
    said = json.loads(await p.text("rounds", {"upto": 3}))
    assert said == [p.who] * 3, said
    assert (len(p.elicited), len(p.sampled)) == (4, 1), (len(p.elicited), len(p.sampled))


async def sent_away(p):
    """The server ends the stream itself, to be asked again."""
    assert await p.text("test_reconnection", {}) == "Welcome back."


async def broken(p):
    """Whoever runs this breaks the connection under the first step that comes by."""
    seen = []

    async def on_progress(done, total, _message):
        seen.append(done)

    assert await p.text("test_tool_with_progress", {}, progress_callback=on_progress) == "Done."
    assert seen == [0, 50, 100], seen


async def ops(p):
    """Looks first, then has a runbook run, for which a person is asked."""
    answer = await p.call("situation", {})
    assert answer.structured_content["generation"] == 1, answer
    names = [server["name"] for server in answer.structured_content["servers"]]
    assert "ops" in names, names
    read = await p.client.read_resource("chillgate://situation")
    assert json.loads(read.contents[0].text)["version"], read
    read = await p.client.read_resource("chillgate://servers/ops")
    assert json.loads(read.contents[0].text)["state"] == "up", read
    asked = len(p.elicited)
    answer = await p.call("greet", {"whom": "Mina"})
    assert answer.structured_content["stdout"] == "hello Mina\n", answer
    assert len(p.elicited) == asked + 1, p.elicited
    answer = await p.call("greet", {"whom": "Mina; id"})
    assert answer.is_error and "does not match" in answer.content[0].text, answer
    assert len(p.elicited) == asked + 1, "a person was asked about what is refused"


async def clock(p):
    text = await p.text("get_current_time", {"timezone": "Asia/Seoul"})
    assert json.loads(text)["timezone"] == "Asia/Seoul", text


SUITES = {
    "everything": {
        "initialize": initialize,
        "ping": ping,
        "tools": tools,
        "tool_errors": tool_errors,
        "resources": resources,
        "prompts": prompts,
        "completion": completion,
        "sampling": sampling,
        "elicitation": elicitation,
        "roots": roots,
        "progress": progress,
        "logging": logging,
        "subscriptions": subscriptions,
        "cancellation": cancellation,
        "concurrency": concurrency,
    },
    "filesystem": {"files": files},
    "memory": {"memory": memory},
    "new": {
        "tools": new_tools,
        "questions": new_questions,
        "progress": new_progress,
        "subscriptions": new_subscriptions,
        "concurrency": new_concurrency,
    },
    "fastmcp": {
        "tools": fast_tools,
        "resources": fast_resources,
        "prompts": fast_prompts,
        "talks_back": fast_talks_back,
    },
    "fastmcp-bridged": {"talks_back": talks_back_in_the_old_way},
    "crowd": {"crowd": crowd},
    "new-crowd": {"crowd": new_crowd},
    "returning": {"sent_away": sent_away, "broken": broken},
    "ops": {"ops": ops},
    "clock": {"clock": clock},
}

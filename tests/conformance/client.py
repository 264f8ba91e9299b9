"""A host behind chillgate, for the scenarios in which the conformance suite judges clients.

    client.py --chillgate BIN --era auto|modern|legacy --host modern|legacy --folder DIR URL

It stands apart from the runner because the suite starts it itself, with the URL of its mock server
as the last argument and the scenario's name in the environment. It starts a chillgate with that URL
as its only server, opens it with the official Python SDK's client and makes the scenario's calls:
what the mock server hears is chillgate's doing.

A legacy host is the stricter one: its SDK knows no `Mcp-Param-*` headers, drops no tool and sees no
`input_required`, so all of that is left to chillgate. Whatever the scenario asks of a host and not
of what it connects with (defaults of a form, say) is done here.

It says nothing when every call was answered; else why, on standard error, with exit code 1. It
never tries a call twice, and never ends a process that it has not started.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import urllib.parse
import urllib.request
import warnings
from pathlib import Path

import anyio
import mcp_types as types
from mcp import Client

from run import CannotRun, serving

CALLS_SECONDS = 20  # less than the suite gives this whole program
NAME = "mock"

# The SDK marks the calls of the older revisions as deprecated; hosts of them are among those tried.
warnings.simplefilter("ignore")


async def on_sampling(_context, _params):
    return types.CreateMessageResult(role="assistant", content=types.TextContent(type="text", text="said"), model="m")


async def on_roots(_context):
    return types.ListRootsResult(roots=[types.Root(uri="file:///conformance", name="conformance")])


class Host:
    def __init__(self) -> None:
        self.client: Client | None = None
        self.meanwhile: str | None = None  # a tool that is called while a form is open

    async def on_elicitation(self, _context, params):
        """Fills a form in: with the defaults that arrived, and with yes where there is none."""
        if self.meanwhile:
            tool, self.meanwhile = self.meanwhile, None
            await self.client.call_tool(tool, {})
        fields = params.requested_schema["properties"]
        content = {name: field["default"] for name, field in fields.items() if "default" in field}
        content |= {name: True for name, field in fields.items() if field["type"] == "boolean" and name not in content}
        return types.ElicitResult(action="accept", content=content)

    async def tools(self) -> list:
        return (await self.client.list_tools()).tools

    async def call(self, tool: str, arguments: dict) -> str:
        answer = await self.client.call_tool(tool, arguments)
        text = "".join(item.text for item in answer.content if item.type == "text")
        if answer.is_error:
            raise CannotRun(f"{tool} answered an error: {text}")
        return text


# --- what each scenario wants called ------------------------------------------------------------


async def lists(host: Host, _context: dict) -> None:
    await host.tools()


async def adds(host: Host, _context: dict) -> None:
    await host.tools()
    said = await host.call("add_numbers", {"a": 5, "b": 3})
    if "8" not in said:
        raise CannotRun(f"add_numbers answered {said!r}")


async def tools_alone(host: Host, _context: dict) -> None:
    for tool in await host.tools():
        await host.call(tool.name, {})


async def everything(host: Host, context: dict) -> None:
    """Each list, and each thing on it."""
    await tools_alone(host, context)
    for resource in (await host.client.list_resources()).resources:
        await host.client.read_resource(resource.uri)
    for prompt in (await host.client.list_prompts()).prompts:
        await host.client.get_prompt(prompt.name)


async def as_told(host: Host, context: dict) -> None:
    await host.tools()
    for call in context["toolCalls"]:
        await host.call(call["name"], call["arguments"])


async def all_offered(host: Host, _context: dict) -> None:
    """Every tool that is offered, with a value for each of its arguments."""
    values = {"string": "a", "number": 1.5, "object": {}, "array": [], "null": None}
    for tool in await host.tools():
        fields = tool.input_schema["properties"]
        await host.call(tool.name, {name: values[field["type"]] for name, field in fields.items()})


async def rounds(host: Host, _context: dict) -> None:
    """Calls that come back for input, and one that has nothing to do with them in between."""
    await host.tools()
    host.meanwhile = "test_mrtr_unrelated"
    for tool in ("test_mrtr_echo_state", "test_mrtr_no_state", "test_mrtr_no_result_type"):
        await host.call(tool, {})


async def echoes(host: Host, _context: dict) -> None:
    schemas = {tool.name: tool.input_schema for tool in await host.tools()}
    await host.call("json_schema_echo", {"schema": schemas["json_schema_2020_12_tool"]})


def granted(url: str, context: dict) -> str:
    """The keys of a server that asks for a token, as an operator would write them: where tokens are had is looked up
    beforehand, because chillgate is told and does not go looking."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def told(address: str) -> dict:
        with direct.open(address, timeout=CALLS_SECONDS) as answer:
            return json.load(answer)

    place = urllib.parse.urlsplit(url)
    resource = told(f"{place.scheme}://{place.netloc}/.well-known/oauth-protected-resource{place.path}")
    issuer = resource["authorization_servers"][0].rstrip("/")
    endpoint = told(f"{issuer}/.well-known/oauth-authorization-server")["token_endpoint"]
    keys = {
        "endpoint": endpoint,
        "client-id": context["client_id"],
        "client-secret": context["client_secret"],
        "resource": resource["resource"],
        "scopes": resource.get("scopes_supported", []),
    }
    return f"\n[server.{NAME}.token]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())


# Servers that let chillgate in with a token of its own.
GRANTED = ("auth/client-credentials-basic",)

SCENARIOS = {
    "auth/client-credentials-basic": tools_alone,
    "tools_call": adds,
    "request-metadata": lists,
    "http-standard-headers": everything,
    "http-custom-headers": as_told,
    "http-invalid-tool-headers": all_offered,
    "sep-2322-client-request-state": rounds,
    "json-schema-ref-no-deref": lists,
    "json-schema-2020-12-preservation": echoes,
    "initialize": lists,
    "elicitation-sep1034-client-defaults": tools_alone,
    "sse-retry": tools_alone,
}


async def drive(url: str, mode: str, scenario: str, context: dict) -> None:
    host = Host()
    host.client = Client(
        url,
        mode=mode,
        client_info=types.Implementation(name="conformance-host", version="1"),
        read_timeout_seconds=CALLS_SECONDS,
        sampling_callback=on_sampling,
        elicitation_callback=host.on_elicitation,
        list_roots_callback=on_roots,
    )
    with anyio.fail_after(CALLS_SECONDS):
        async with host.client:
            await SCENARIOS[scenario](host, context)


def reasons(error: BaseException) -> list[str]:
    """What went wrong, without the groups that it was wrapped in."""
    if isinstance(error, BaseExceptionGroup):
        return [reason for inner in error.exceptions for reason in reasons(inner)]
    return [f"{type(error).__name__}: {error}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chillgate", type=Path, required=True)
    parser.add_argument("--era", choices=("auto", "modern", "legacy"), required=True, help="the server's")
    parser.add_argument("--host", choices=("modern", "legacy"), required=True, help="the host's era")
    parser.add_argument("--folder", type=Path, required=True, help="for the configuration and logs")
    parser.add_argument("url")
    given = parser.parse_args()
    scenario = os.environ["MCP_CONFORMANCE_SCENARIO"]
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    # A dropped stream at the end is the transport's own note, and all else comes as an exception.
    logging.disable(logging.ERROR)
    folder = given.folder / scenario
    folder.mkdir(parents=True)
    entry = f"url = {json.dumps(given.url)}\nera = {json.dumps(given.era)}"
    if scenario in GRANTED:
        entry += granted(given.url, context)
    mode = "auto" if given.host == "modern" else "legacy"
    try:
        with serving(given.chillgate, NAME, entry, folder) as url:
            anyio.run(drive, url, mode, scenario, context)
    except Exception as error:
        print("; ".join(reasons(error)), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

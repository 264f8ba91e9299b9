"""A server of revision 2026-07-28, as the official Python SDK makes one, over stdio or HTTP.

It stands apart because what it wants of its host it says as the outcome of a call, which hosts of
older revisions do not know. It never reads the network or the disk.

    new_server.py [--http PORT]
"""

import argparse
import json

import anyio
import mcp_types as types
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("new-server", version="7", instructions="Asks in its answers.")
board = {"text": "nothing yet"}


def form(message: str, **properties: str) -> types.ElicitRequest:
    schema = {"type": "object", "properties": {name: {"type": kind} for name, kind in properties.items()}}
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def sampling(text: str) -> types.CreateMessageRequest:
    content = types.TextContent(type="text", text=text)
    message = types.SamplingMessage(role="user", content=content)
    return types.CreateMessageRequest(params=types.CreateMessageRequestParams(messages=[message], max_tokens=16))


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two integers."""
    return a + b


@server.tool()
def fail(why: str) -> str:
    """Fails, and says why."""
    raise ToolError(why)


@server.tool()
def three(context: Context) -> types.CallToolResult | types.InputRequiredResult:
    """Asks a person, a model and for the roots, all at once."""
    said = context.input_responses or {}
    if {"who", "what", "where"} - set(said):
        return types.InputRequiredResult(
            input_requests={
                "who": form("Who are you?", name="string"),
                "what": sampling("what is chill?"),
                "where": types.ListRootsRequest(),
            },
            request_state="three",
        )
    answer = {
        "who": said["who"].content,
        "what": said["what"].content.text,
        "where": [str(root.uri) for root in said["where"].roots],
        "state": context.request_state,
    }
    return types.CallToolResult(content=[types.TextContent(type="text", text=json.dumps(answer))])


@server.tool()
def rounds(context: Context, upto: int) -> types.CallToolResult | types.InputRequiredResult:
    """Asks so many times, one after another; what was said is in its state."""
    names = json.loads(context.request_state or "[]")
    said = (context.input_responses or {}).get("next")
    if said is not None:
        names.append((said.content or {}).get("name") if said.action == "accept" else said.action)
    if len(names) < upto:
        question = form(f"Number {len(names) + 1}?", name="string")
        return types.InputRequiredResult(input_requests={"next": question}, request_state=json.dumps(names))
    return types.CallToolResult(content=[types.TextContent(type="text", text=json.dumps(names))])


@server.tool()
async def steps(context: Context, count: int) -> str:
    """Reports its progress and logs."""
    for step in range(count):
        await context.report_progress(step + 1, count)
        await context.info(f"step {step + 1}")
        await anyio.sleep(0.02)
    return "done"


@server.tool()
async def sleep(seconds: float) -> str:
    """Takes its time."""
    await anyio.sleep(seconds)
    return "slept"


@server.tool()
async def pin(context: Context, text: str) -> str:
    """Writes on the board, and says so to whoever listens."""
    board["text"] = text
    await context.notify_resource_updated("board://now")
    await context.notify_tools_changed()
    return "pinned"


@server.resource("board://now")
def now() -> str:
    """The board."""
    return board["text"]


@server.resource("board://old/{day}")
def old(day: str) -> str:
    """The board of another day."""
    return f"nothing on {day}"


@server.prompt()
def ask_break(minutes: str) -> str:
    """Asks for a break."""
    return f"May I take a break of {minutes} minutes?"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--http", type=int)
    port = parser.parse_args().http
    if port is None:
        server.run()
    else:
        server.run("streamable-http", host="127.0.0.1", port=port)

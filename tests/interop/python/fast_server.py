"""A fastmcp server over stdio with one of everything: a tool, resources, a prompt, a talkative call.

It stands apart because chillgate is tried behind a server that a Python user would write. It never
reads the network or the disk.
"""

import json
from dataclasses import dataclass

from fastmcp import Context, FastMCP
from mcp_types import SamplingMessage, TextContent

server = FastMCP("fast-server", instructions="Adds numbers and talks back.")


@dataclass
class Answer:
    """What `talk_back` asks the person for."""

    answer: str


@server.tool
def add(a: int, b: int) -> int:
    """Adds two integers."""
    return a + b


@server.tool
def fail(why: str) -> str:
    """Fails, and says why."""
    raise ValueError(why)


@server.tool
def blob(size: int) -> str:
    """Answers with so many letters."""
    return "x" * min(size, 4_000_000)


@server.tool
async def talk_back(context: Context) -> str:
    """Uses everything a server may ask of a host within one call."""
    await context.report_progress(1, 2)
    await context.info("talking back")
    question = SamplingMessage(role="user", content=TextContent(type="text", text="what is chill?"))
    sampled = await context.session.create_message(messages=[question], max_tokens=32)
    elicited = await context.elicit("Which colour?", response_type=Answer)
    await context.report_progress(2, 2)
    return json.dumps({"sampled": sampled.content.text, "elicited": elicited.data.answer})


@server.resource("fast://motto")
def motto() -> str:
    """The office's motto."""
    return "Chill first."


@server.resource("fast://greet/{name}")
def greet(name: str) -> str:
    """A greeting for one person."""
    return f"Hello, {name}"


@server.prompt
def ask_break(minutes: int) -> str:
    """Asks for a break."""
    return f"May I take a break of {minutes} minutes?"


if __name__ == "__main__":
    server.run(show_banner=False)

"""The official Python SDK's client, driven through one endpoint and checked.

It stands apart from the Rust tests because it must be the real client, as a user's host has it.
It never knows whether chillgate is in between: the same command runs straight at a server (the
control) and through the gate.

    peer.py --suite everything [--mode auto|legacy] [--prefix everything__] --url http://…/mcp
    peer.py --suite filesystem --dir DIR -- node server-filesystem DIR
    peer.py --suite crowd --clients 20 --url http://…/mcp

One line of JSON per check on stdout: {"check", "ok", "detail"}. Exit 1 when any check failed.
"""

import argparse
import json
import logging
import os
import sys
import time
import traceback
import warnings
from contextlib import asynccontextmanager

import anyio
import httpx2
import mcp_types as types
from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

import suites

# The SDK marks the handshake era's calls as deprecated; they are what is checked here.
warnings.simplefilter("ignore")

CONNECT_SECONDS = 90.0  # a cold start through npx or uvx on a busy machine
CHECK_SECONDS = 45.0
TRUST = ("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS")


class Peer:
    """The client and everything that the server said to it unasked."""

    def __init__(self, prefix: str, root: str, who: str = "Mina", pause: float = 0.0) -> None:
        self.who = who
        self.pause = pause  # how long a person or a model takes
        self.prefix = prefix
        self.root = root
        self.client: Client | None = None
        self.sampled: list[types.CreateMessageRequestParams] = []
        self.elicited: list[types.ElicitRequestParams] = []
        self.logs: list[types.LoggingMessageNotificationParams] = []
        self.notes: list[object] = []
        self.roots_asked = 0

    def name(self, bare: str) -> str:
        """A tool's or prompt's name as this endpoint shows it."""
        return self.prefix + bare

    async def call(self, tool: str, arguments: dict | None = None, **more):
        """Calls a tool by its bare name."""
        return await self.client.call_tool(self.name(tool), arguments, **more)

    async def text(self, tool: str, arguments: dict | None = None, **more) -> str:
        """The text of a tool's answer, which must not be an error."""
        answer = await self.call(tool, arguments, **more)
        text = "\n".join(item.text for item in answer.content if item.type == "text")
        assert not answer.is_error, f"{tool} answered an error: {text}"
        return text

    async def on_sampling(self, _context, params):
        self.sampled.append(params)
        await anyio.sleep(self.pause)
        said = params.messages[0].content
        said = said[0] if isinstance(said, list) else said
        return types.CreateMessageResult(
            role="assistant",
            content=types.TextContent(type="text", text=f"sampled: {said.text}"),
            model="interop-model",
            stop_reason="endTurn",
        )

    async def on_elicitation(self, _context, params):
        self.elicited.append(params)
        await anyio.sleep(self.pause)
        return types.ElicitResult(action="accept", content={"name": self.who, "check": True, "answer": "blue"})

    async def on_roots(self, _context):
        self.roots_asked += 1
        return types.ListRootsResult(roots=[types.Root(uri=f"file://{self.root}", name="interop-root")])

    async def on_log(self, params):
        self.logs.append(params)

    async def on_message(self, message):
        self.notes.append(message)

    async def until(self, what: str, seen, seconds: float = 15.0):
        """Waits until `seen()` is true; the wait is bounded and says what was missing."""
        end = time.monotonic() + seconds
        while not seen():
            assert time.monotonic() < end, f"{what} did not arrive within {seconds:.0f} s"
            await anyio.sleep(0.02)


@asynccontextmanager
async def connected(options, peer: Peer):
    """Opens the endpoint that the command line names, as a host would."""
    callbacks = {}
    if not options.plain:
        callbacks = {
            "sampling_callback": peer.on_sampling,
            "elicitation_callback": peer.on_elicitation,
            "list_roots_callback": peer.on_roots,
        }
    async with httpx2.AsyncClient(
        headers=dict(pair.split("=", 1) for pair in options.header),
        timeout=httpx2.Timeout(30.0, read=300.0),
    ) as http:
        if options.url.endswith("/sse"):
            target = sse_client(options.url, headers=dict(pair.split("=", 1) for pair in options.header))
        elif options.url:
            target = streamable_http_client(options.url, http_client=http)
        else:
            command, *args = options.command
            # The SDK hands on a minimal environment; trust in a local certificate authority must
            # reach servers that fetch themselves (npx, uvx).
            trust = {name: os.environ[name] for name in TRUST if name in os.environ}
            target = StdioServerParameters(command=command, args=args, env=trust)
        client = Client(
            target,
            mode=options.mode,
            log_level="debug",
            client_info=types.Implementation(name="interop-python", version="1"),
            logging_callback=peer.on_log,
            message_handler=peer.on_message,
            read_timeout_seconds=60.0,
            **callbacks,
        )
        async with client:
            peer.client = client
            yield


def report(check: str, ok: bool, detail: str) -> None:
    print(json.dumps({"check": check, "ok": ok, "detail": detail}), flush=True)


async def run(options) -> int:
    """Runs the suite with as many clients as are wanted, all at once; the number of failures."""
    if options.clients == 1:
        return await run_one(options, Peer(options.prefix, options.dir))
    failed = []
    connected_ones = []
    together = anyio.Event()

    async def all_there():
        connected_ones.append(1)
        if len(connected_ones) == options.clients:
            together.set()
        await together.wait()

    async def one(number):
        peer = Peer(options.prefix, options.dir, who=f"guest {number}", pause=0.3)
        if await run_one(options, peer, all_there):
            failed.append(number)

    async with anyio.create_task_group() as group:
        for number in range(options.clients):
            group.start_soon(one, number)
    return len(failed)


async def run_one(options, peer: Peer, connected_too=None) -> int:
    """Runs the suite's checks in order; the number of failures."""
    failed = 0
    checks = suites.SUITES[options.suite]
    wanted = options.checks.split(",") if options.checks else list(checks)
    reached = False
    try:
        with anyio.fail_after(CONNECT_SECONDS + CHECK_SECONDS * len(wanted)):
            async with connected(options, peer):
                reached = True
                if connected_too is not None:
                    await connected_too()
                report("connect", True, f"{peer.client.protocol_version}")
                for check in wanted:
                    try:
                        with anyio.fail_after(CHECK_SECONDS):
                            detail = await checks[check](peer)
                        report(check, True, str(detail or ""))
                    except Exception as error:
                        failed += 1
                        where = traceback.extract_tb(error.__traceback__)
                        line = next((f.lineno for f in reversed(where) if "suites" in f.filename), 0)
                        inner = "".join(f"; {one!r}" for one in getattr(error, "exceptions", ()))
                        said = f"{type(error).__name__} (suites.py:{line}): {error}{inner}"
                        report(check, False, said[:2000])
    except BaseException as error:
        failed += 1
        text = "".join(traceback.format_exception_only(error))
        for inner in getattr(error, "exceptions", ()):
            text += "".join(traceback.format_exception_only(inner))
        report("close" if reached else "connect", False, text[:2000])
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True, choices=sorted(suites.SUITES))
    parser.add_argument("--checks", default="", help="a comma-separated part of the suite")
    parser.add_argument("--mode", default="auto", choices=["auto", "legacy"])
    parser.add_argument("--prefix", default="", help="what the endpoint puts before tool and prompt names")
    parser.add_argument("--plain", action="store_true", help="declare no sampling, elicitation or roots")
    parser.add_argument("--header", action="append", default=[], help="NAME=VALUE, sent with every request")
    parser.add_argument("--dir", default="/tmp", help="the directory offered as root")
    parser.add_argument("--clients", type=int, default=1, help="so many clients, all at once")
    parser.add_argument("--url", default="")
    parser.add_argument("command", nargs="*", help="-- PROGRAM ARGUMENT…")
    options = parser.parse_args()
    if bool(options.url) == bool(options.command):
        parser.error("give either --url URL or -- COMMAND…")
    # A dropped stream at close is the transport's own note, not a finding.
    logging.disable(logging.ERROR)
    return 1 if anyio.run(run, options) else 0


if __name__ == "__main__":
    sys.exit(main())

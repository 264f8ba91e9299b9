"""The stdio side of chillgate, as the HTTP endpoint that the conformance suite expects.

    shim.py --era modern|legacy --port PORT -- COMMAND…

It stands apart from the runner because the suite speaks HTTP only: this process listens where the
suite connects, and carries each message to the standard input of COMMAND and what comes back to
the request it belongs to. What is judged is COMMAND; the shim adds nothing to a message and takes
nothing from one.

Modern (2026-07-28): one process for everybody, since requests stand alone. Hosts choose ids and
progress tokens for themselves, so each gets one of the shim's on the way in and its own on the way
out. A host that leaves cancels its request.
Legacy: `initialize` starts a process and DELETE ends it, for one Mcp-Session-Id.

It never listens beyond loopback, never checks what only HTTP knows (headers, Origin, statuses by
the kind of error), and never hides a COMMAND that ended badly: then its own exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import signal
import sys
import uuid
from collections import deque

LINE_BYTES = 16 << 20
HEAD_SECONDS = 60  # an idle connection is kept this long
END_SECONDS = 8  # less than the runner waits for the shim
SESSIONS = 4  # hosts of the suite go without a word; the one silent for longest makes room
KEPT = 100  # messages that wait for a GET stream

SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
LOG_LEVEL = "io.modelcontextprotocol/logLevel"


def say(words: str) -> None:
    print(f"shim: {words}", file=sys.stderr, flush=True)


def member(value, *path):
    """What is there at the end of the path, or nothing: hosts and servers may send anything."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


# --- one process ------------------------------------------------------------------------------


class Gate:
    """COMMAND between two pipes."""

    ended_badly = False  # any of them
    gone: asyncio.Event  # one ended that nobody had ended

    def __init__(self, process: asyncio.subprocess.Process, hear) -> None:
        self.process = process
        self.reading = asyncio.create_task(self.read(hear))
        self.closing = False

    @classmethod
    async def start(cls, command: list[str], hear) -> Gate:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=LINE_BYTES)
        return cls(process, hear)

    async def read(self, hear) -> None:
        """Hands over each message, and `None` when there will be no more."""
        try:
            while line := await self.process.stdout.readline():
                hear(json.loads(line))
        except ValueError as error:
            # A line that is no message, or has no end: nothing else may be on standard output.
            say(f"not a message: {error}")
            Gate.ended_badly = True
        if not self.closing:
            say("standard output of the command closed while its host was there")
            Gate.ended_badly = True
            Gate.gone.set()
        hear(None)

    async def send(self, message: dict) -> None:
        self.process.stdin.write(json.dumps(message, ensure_ascii=False).encode() + b"\n")
        try:
            await self.process.stdin.drain()
        except ConnectionError:
            pass  # its reader says that it is gone

    async def end(self) -> None:
        """The way a host ends a server: nothing more to read, and it goes by itself."""
        self.closing = True
        self.process.stdin.close()
        try:
            code = await asyncio.wait_for(self.process.wait(), END_SECONDS)
        except asyncio.TimeoutError:
            say(f"the command did not end within {END_SECONDS} s of the end of its input")
            self.process.kill()
            code = await self.process.wait()
        if code != 0:
            say(f"the command ended with {code}")
            Gate.ended_badly = True
        await self.reading


# --- eras -------------------------------------------------------------------------------------


class Asked:
    """A request that has no answer yet."""

    def __init__(self, message: dict) -> None:
        self.id = message["id"]
        self.token = member(message, "params", "_meta", "progressToken")
        self.wants_logs = member(message, "params", "_meta", LOG_LEVEL) is not None
        self.replies: asyncio.Queue[dict | None] = asyncio.Queue()


class Modern:
    """Everybody's requests over one process."""

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.gate: Gate | None = None
        self.asked: dict[int, Asked] = {}
        self.ids = itertools.count(1)

    async def open(self) -> None:
        self.gate = await Gate.start(self.command, self.hear)

    async def close(self) -> None:
        await self.gate.end()

    def hear(self, message: dict | None) -> None:
        if message is None:
            for asked in self.asked.values():
                asked.replies.put_nowait(None)
            return
        if "method" not in message:
            if asked := self.asked.pop(message.get("id"), None):
                message["id"] = asked.id
                asked.replies.put_nowait(message)
            # Who has left is not told.
            return
        asked = self.owner(message)
        if asked is None:
            say(f"belongs to no request: {json.dumps(message)}")
        else:
            asked.replies.put_nowait(message)

    def owner(self, message: dict) -> Asked | None:
        """The request that a message came with, with the host's words in place of the shim's."""
        params = member(message, "params")
        for holder, key in ((params, "progressToken"), (member(params, "_meta"), SUBSCRIPTION), (params, "requestId")):
            if (number := member(holder, key)) is not None:
                asked = self.asked.get(number) if isinstance(number, int) else None
                if asked:
                    holder[key] = asked.token if key == "progressToken" else asked.id
                return asked
        # Nothing names its request; it is clear only where there is no choice. What no request has
        # asked for goes to the one that is there, so that the suite sees it.
        wanting = [asked for asked in self.asked.values() if asked.wants_logs]
        if message["method"] == "notifications/message" and len(wanting) == 1:
            return wanting[0]
        return next(iter(self.asked.values())) if len(self.asked) == 1 else None

    async def post(self, message: dict, _session: str | None, exchange: Exchange) -> None:
        if "method" not in message or "id" not in message:
            await self.gate.send(message)
            await exchange.answer(202)
            return
        number = next(self.ids)
        asked = self.asked[number] = Asked(message)
        message["id"] = number
        if asked.token is not None:
            message["params"]["_meta"]["progressToken"] = number
        await self.gate.send(message)
        if not await exchange.relay(asked) and self.asked.pop(number, None):
            gone = {"requestId": number, "reason": "the host closed its stream"}
            await self.gate.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": gone})

    async def get(self, _session: str | None, exchange: Exchange) -> None:
        await exchange.answer(405)

    async def delete(self, _session: str | None, exchange: Exchange) -> None:
        await exchange.answer(405)


class Session:
    """One legacy host and its process."""

    def __init__(self) -> None:
        self.gate: Gate | None = None
        self.asked: dict[object, Asked] = {}
        self.streams: list[asyncio.Queue[dict | None]] = []
        self.kept: deque[dict] = deque(maxlen=KEPT)

    def hear(self, message: dict | None) -> None:
        if message is None:
            for replies in [*self.streams, *(asked.replies for asked in self.asked.values())]:
                replies.put_nowait(None)
        elif "method" not in message:
            if asked := self.asked.pop(message.get("id"), None):
                asked.replies.put_nowait(message)
        elif asked := self.owner(message):
            asked.replies.put_nowait(message)
        elif self.streams:
            self.streams[-1].put_nowait(message)
        else:
            self.kept.append(message)

    def owner(self, message: dict) -> Asked | None:
        token = member(message, "params", "progressToken")
        for asked in self.asked.values():
            if token is not None and asked.token == token:
                return asked
        return next(iter(self.asked.values())) if len(self.asked) == 1 else None


class Legacy:
    """A process for each session."""

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.sessions: dict[str, Session] = {}  # the one silent for longest first

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        await asyncio.gather(*(self.end(name) for name in [*self.sessions]))

    async def end(self, name: str) -> None:
        await self.sessions.pop(name).gate.end()

    async def find(self, name: str | None, exchange: Exchange) -> Session | None:
        """The session, or nothing after saying so."""
        if name is None:
            await exchange.answer(400)
        elif name not in self.sessions:
            await exchange.answer(404)
        else:
            self.sessions[name] = self.sessions.pop(name)
            return self.sessions[name]
        return None

    async def post(self, message: dict, name: str | None, exchange: Exchange) -> None:
        if message.get("method") == "initialize" and name is None:
            if len(self.sessions) >= SESSIONS:
                await self.end(next(iter(self.sessions)))
            name = uuid.uuid4().hex
            self.sessions[name] = Session()
            self.sessions[name].gate = await Gate.start(self.command, self.sessions[name].hear)
            exchange.headers["Mcp-Session-Id"] = name
        session = await self.find(name, exchange)
        if session is None:
            return
        if "method" not in message or "id" not in message:
            await session.gate.send(message)
            await exchange.answer(202)
            return
        asked = session.asked[message["id"]] = Asked(message)
        await session.gate.send(message)
        # A host of these revisions that leaves has cancelled nothing.
        await exchange.relay(asked)

    async def get(self, name: str | None, exchange: Exchange) -> None:
        if session := await self.find(name, exchange):
            replies: asyncio.Queue[dict | None] = asyncio.Queue()
            while session.kept:
                replies.put_nowait(session.kept.popleft())
            session.streams.append(replies)
            try:
                await exchange.stream(replies)
            finally:
                session.streams.remove(replies)

    async def delete(self, name: str | None, exchange: Exchange) -> None:
        if await self.find(name, exchange):
            await self.end(name)
            await exchange.answer(204)


# --- HTTP -------------------------------------------------------------------------------------

REASONS = {200: "OK", 202: "Accepted", 204: "No Content", 400: "Bad Request", 404: "Not Found",
           405: "Method Not Allowed", 502: "Bad Gateway"}  # fmt: skip


class Exchange:
    """One HTTP request and what is said to it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.headers: dict[str, str] = {}
        self.reusable = True

    def head(self, status: int, **more: str) -> None:
        lines = [f"HTTP/1.1 {status} {REASONS[status]}", *(f"{k}: {v}" for k, v in {**self.headers, **more}.items())]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    async def answer(self, status: int, body: bytes = b"") -> None:
        about = {"Content-Type": "application/json"} if body else {}
        if status != 204:
            about["Content-Length"] = str(len(body))
        self.head(status, **about)
        self.writer.write(body)
        await self.writer.drain()

    async def relay(self, asked: Asked) -> bool:
        """Gives what belongs to the request, to its answer; whether the host stayed for it."""
        left = asyncio.create_task(self.left())
        try:
            first = await self.next(asked.replies, left)
            if left.done():
                return False
            if first is None:
                await self.answer(502)
            elif "method" not in first:
                await self.answer(200, json.dumps(first, ensure_ascii=False).encode())
            else:
                return await self.events(asked.replies, first, left)
            return True
        finally:
            await self.forget(left)

    async def stream(self, replies: asyncio.Queue) -> None:
        """Gives everything, until the host or the process goes."""
        left = asyncio.create_task(self.left())
        try:
            await self.events(replies, None, left)
        finally:
            await self.forget(left)

    async def events(self, replies: asyncio.Queue, first: dict | None, left: asyncio.Task) -> bool:
        self.head(200, **{"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        message = first
        while True:
            if message is not None:
                event = f"event: message\ndata: {json.dumps(message, ensure_ascii=False)}\n\n".encode()
                self.writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await self.writer.drain()
            if message is not None and "method" not in message:
                break
            message = await self.next(replies, left)
            if left.done():
                return False
            if message is None:
                break
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()
        return True

    async def next(self, replies: asyncio.Queue, left: asyncio.Task) -> dict | None:
        """The next of them; what it is does not matter when the host has left."""
        getting = asyncio.create_task(replies.get())
        await asyncio.wait({getting, left}, return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            return getting.result()
        await self.forget(getting)
        return None

    async def left(self) -> None:
        """Ends when the host has. None of the suite's sends a second request before the answer."""
        if await self.reader.read(1):
            say("a second request on a connection that waits for its answer")
            self.reusable = False

    async def forget(self, task: asyncio.Task) -> None:
        if task.done():
            self.reusable = False
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def request(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes] | None:
    """Method, headers and body, or nothing when the connection has served."""
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_SECONDS)
    except (asyncio.IncompleteReadError, asyncio.TimeoutError, ConnectionError):
        return None
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return first.split(" ")[0], headers, await reader.readexactly(int(headers.get("content-length", 0)))


async def connection(era: Modern | Legacy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while heard := await request(reader):
            method, headers, body = heard
            exchange = Exchange(reader, writer)
            session = headers.get("mcp-session-id")
            if method == "POST":
                try:
                    message = json.loads(body)
                except ValueError:
                    message = None
                # The shim's own kind of host sends one message at a time.
                if isinstance(message, dict):
                    await era.post(message, session, exchange)
                else:
                    await exchange.answer(400)
            elif method in ("GET", "DELETE"):
                await getattr(era, method.lower())(session, exchange)
            else:
                await exchange.answer(405)
            if not exchange.reusable:
                break
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # the host left in the middle of a word
    finally:
        writer.close()


async def serve(era: Modern | Legacy, port: int) -> None:
    # Nothing is served any more once a command has ended by itself: that is for everybody to see.
    told = Gate.gone = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await era.open()
    tasks: set[asyncio.Task] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(connection(era, reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", port, limit=LINE_BYTES)
    await told.wait()
    server.close()
    await era.close()
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            say(f"{type(outcome).__name__}: {outcome}")
            Gate.ended_badly = True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--era", choices=("modern", "legacy"), required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    asyncio.run(serve((Modern if given.era == "modern" else Legacy)(given.command), given.port))
    return 1 if Gate.ended_badly else 0


if __name__ == "__main__":
    sys.exit(main())

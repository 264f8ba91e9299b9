"""The official MCP conformance suite straight at servers and through chillgate, check by check.

    run.py --chillgate BIN --dual BIN --node NODE22 --suite INDEX_JS [--smoke] [--only SERVER] [--out DIR]

It stands apart from the Rust tests because neither the suite nor its Node is needed to build or to
change chillgate, and because its verdict is somebody else's. For each pair of a requirement set and
a server it starts the server and a chillgate of its own, runs the suite through chillgate and, where
the server speaks the revision of the set over HTTP, straight at the server as well. A server over
stdio is compared with the same server over HTTP: the suite itself speaks HTTP only.

A check is *amiss* through chillgate when it fails or warns there and is not just as bad straight at
the server, or when it succeeds straight at the server and not there. `expected-failures.txt` lists
what may be amiss. Exit 0: what is amiss is what is listed. Exit 1: something else is amiss, or a
listed check is not. Exit 2: a run could not be made.

It never listens or connects beyond loopback, never ends a process that it has not started, never
waits without a bound, and never tries anything twice.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

HERE = Path(__file__).resolve().parent
INTEROP = HERE.parent / "interop" / "ts"
EVERYTHING = INTEROP / "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
EXPECTED = HERE / "expected-failures.txt"

READY_SECONDS = 30
SUITE_SECONDS = 300
SCENARIO_SECONDS = 60
END_SECONDS = 10

LEGACY_SUITE, MODERN_SUITE = "2025-11-25", "2026-07-28"
SUITES = (MODERN_SUITE, LEGACY_SUITE)
# Which sets can be run straight at a server: those of the revisions that it speaks.
SPOKEN = {
    "dual": SUITES,
    "modern": (MODERN_SUITE,),
    "legacy": (LEGACY_SUITE,),
    "everything": (LEGACY_SUITE,),
}
BACKENDS = (*(f"{server}-{transport}" for server in SPOKEN for transport in ("stdio", "http")), "everything-sse")

# A few scenarios of each set that cross most of chillgate: both handshakes, questions of the server
# on the way, headers, the end of a session.
SMOKE = {
    MODERN_SUITE: (
        "server-stateless",
        "http-header-validation",
        "input-required-result-multi-round",
    ),
    LEGACY_SUITE: (
        "server-session-lifecycle",
        "tools-call-with-progress",
        "elicitation-sep1330-enums",
    ),
}

# From good to bad. Two statuses of one rank are as good as each other.
RANK = {"SUCCESS": 0, "INFO": 0, "SKIPPED": 0, "WARNING": 1, "FAILURE": 2}


class CannotRun(Exception):
    """No verdict can be given."""


@dataclass(frozen=True)
class Tools:
    chillgate: Path
    dual: Path
    node: Path
    suite: Path
    smoke: bool
    only: str


@dataclass(frozen=True, order=True)
class Check:
    scenario: str
    id: str
    name: str  # one id covers several checks, told apart by their names

    def __str__(self) -> str:
        return f"{self.scenario}:{self.id}"


@dataclass
class Results:
    """What one run of a requirement set gave."""

    statuses: dict[Check, str] = field(default_factory=dict)
    messages: dict[Check, str] = field(default_factory=dict)
    counts: Counter = field(default_factory=Counter)

    @property
    def scenarios(self) -> set[str]:
        return {check.scenario for check in self.statuses}

    def add(self, scenario: str, entry: dict) -> None:
        check = Check(scenario, entry["id"], entry["name"])
        status = entry["status"]
        if status not in RANK:
            raise CannotRun(f"{check} has a status that is not known here: {status}")
        self.counts[status] += 1
        # A check that is made several times is as good as its worst.
        before = self.statuses.get(check)
        if before is None or RANK[status] >= RANK[before]:
            self.statuses[check] = status
            self.messages[check] = " ".join((entry.get("errorMessage") or "").split())

    def figures(self) -> str:
        warned = f" ({self.counts['WARNING']} warned)" if self.counts["WARNING"] else ""
        return f"{self.counts['SUCCESS']}/{self.counts['FAILURE']}{warned}"


# --- processes --------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def await_ready(what: str, process: subprocess.Popen, ready) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not ready():
        if process.poll() is not None:
            raise CannotRun(f"{what} ended with {process.returncode} before it was ready")
        if time.monotonic() > deadline:
            raise CannotRun(f"{what} was not ready within {READY_SECONDS} s")
        time.sleep(0.05)


def accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def says_ready(port: int) -> bool:
    # A proxy of the environment has no business with loopback.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


@contextmanager
def running(command: list[str], log: Path, env: dict[str, str] | None = None):
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
        )
        try:
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(END_SECONDS)


# --- servers and chillgate --------------------------------------------------------------------


def stdio_command(tools: Tools, server: str) -> list[str]:
    if server in ("dual", "modern"):
        return [str(tools.dual), "--eras", "both" if server == "dual" else "modern"]
    script = [str(HERE / "legacy-server.mjs")] if server == "legacy" else [str(EVERYTHING), "stdio"]
    return [str(tools.node), *script]


@contextmanager
def http_server(tools: Tools, server: str, log: Path, transport: str = "http"):
    """The server over Streamable HTTP, or over HTTP+SSE; gives its URL."""
    port = free_port()
    env = {}
    if server == "everything":
        words = [str(tools.node), str(EVERYTHING), "sse" if transport == "sse" else "streamableHttp"]
        # This server would listen on every address.
        env = {"PORT": str(port), "NODE_OPTIONS": f"--require {INTEROP / 'loopback.cjs'}"}
    else:
        words = [*stdio_command(tools, server), "--http", str(port)]
    with running(words, log, env) as process:
        await_ready(f"{server} over HTTP", process, lambda: accepts(port))
        yield f"http://127.0.0.1:{port}/{'sse' if transport == 'sse' else 'mcp'}"


@contextmanager
def chillgate(tools: Tools, backend: str, folder: Path):
    """chillgate in front of the backend; gives the URL of the server's own endpoint."""
    server, _, transport = backend.partition("-")
    with ExitStack() as stack:
        if transport in ("http", "sse"):
            url = stack.enter_context(http_server(tools, server, folder / "server.log", transport))
            entry = f"url = {json.dumps(url)}"
            if transport == "sse":
                entry += '\ntransport = "http-sse"'
        else:
            entry = f"command = {json.dumps(stdio_command(tools, server))}"
        front, health = free_port(), free_port()
        config = folder / "chillgate.toml"
        config.write_text(
            f'[[front]]\nlisten = "127.0.0.1:{front}"\n\n'
            f'[health]\nlisten = "127.0.0.1:{health}"\n\n'
            f"[server.{server}]\n{entry}\n"
        )
        words = [str(tools.chillgate), "serve", "--config", str(config)]
        process = stack.enter_context(running(words, folder / "chillgate.log"))
        await_ready("chillgate", process, lambda: says_ready(health))
        yield f"http://127.0.0.1:{front}/server/{server}/mcp"
        if process.poll() is not None:
            raise CannotRun(f"chillgate ended with {process.returncode} while the suite ran")


# --- the suite --------------------------------------------------------------------------------


def run_suite(tools: Tools, suite: str, url: str, folder: Path) -> Results:
    """Runs the requirement set, or its smoke scenarios, at `url`."""
    output = folder / "checks"
    base = [str(tools.node), str(tools.suite), "server", "--url", url, "-o", str(output)]
    if tools.smoke:
        for scenario in SMOKE[suite]:
            words = [*base, "--scenario", scenario, "--spec-version", suite]
            suite_process(words, folder / f"{scenario}.log", SCENARIO_SECONDS)
    else:
        words = [*base, "--requirements", suite]
        suite_process(words, folder / "suite.log", SUITE_SECONDS)
        # Without its summary the suite has not come to its end, whatever it wrote before.
        if "=== SUMMARY ===" not in (folder / "suite.log").read_text(errors="replace"):
            raise CannotRun(f"the suite did not come to its end; see {folder / 'suite.log'}")
    results = read(output)
    missing = set(SMOKE[suite]) - results.scenarios
    if missing:
        raise CannotRun(f"the suite left no checks of {', '.join(sorted(missing))} in {output}")
    return results


def suite_process(words: list[str], log: Path, seconds: float) -> None:
    with running(words, log) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise CannotRun(f"the suite took more than {seconds} s; see {log}") from None
    # 1 is its word for failed checks, which are read from the files.
    if process.returncode not in (0, 1):
        raise CannotRun(f"the suite ended with {process.returncode}; see {log}")


def read(output: Path) -> Results:
    results = Results()
    for path in sorted(output.glob("server-*/checks.json")):
        # server-SCENARIO-DATETZ, where a scenario's own name may begin with "server-"
        scenario = re.sub(r"-\d{4}-\d\d-\d\dT[\d-]+Z$", "", path.parent.name)[len("server-") :]
        for entry in json.loads(path.read_text()):
            results.add(scenario, entry)
    return results


# --- the comparison ---------------------------------------------------------------------------


def amiss(direct: Results | None, through: Results) -> dict[Check, str]:
    """What is worse through chillgate than it is, or has to be, without; and in which way."""
    found = {}
    for check, status in through.statuses.items():
        before = direct.statuses.get(check) if direct else None
        if RANK[status] > (RANK[before] if before else 0):
            found[check] = status if before is None else f"{status}, straight {before}"
    for check, status in direct.statuses.items() if direct else ():
        if status == "SUCCESS" and through.statuses.get(check) != "SUCCESS":
            found[check] = f"{through.statuses.get(check, 'absent')}, straight SUCCESS"
    return found


@dataclass
class Expected:
    """One line of the list of what may be amiss."""

    suite: str
    backend: str
    check: str
    reason: str
    line: int

    def covers(self, suite: str, backend: str) -> bool:
        return self.suite == suite and fnmatchcase(backend, self.backend)


def expectations(path: Path) -> list[Expected]:
    listed = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split(maxsplit=3)
        if len(words) < 4 or words[0] not in SUITES or ":" not in words[2]:
            raise CannotRun(f"{path.name}:{number}: not `SUITE BACKEND SCENARIO:CHECK  reason`")
        entry = Expected(*words, line=number)
        if not any(fnmatchcase(backend, entry.backend) for backend in BACKENDS):
            raise CannotRun(f"{path.name}:{number}: `{entry.backend}` is none of {', '.join(BACKENDS)}")
        listed.append(entry)
    return listed


@dataclass
class Pair:
    suite: str
    backend: str
    direct: Results | None
    through: Results
    amiss: dict[Check, str]
    listed: list[Expected]

    def expected(self, check: Check) -> bool:
        return any(entry.check == str(check) for entry in self.listed)

    def unexpected(self) -> list[Check]:
        return sorted(check for check in self.amiss if not self.expected(check))

    def stale(self) -> list[Expected]:
        found = {str(check) for check in self.amiss}
        # A scenario that was not run says nothing about its checks.
        run = self.through.scenarios
        return [entry for entry in self.listed if entry.check.split(":")[0] in run and entry.check not in found]

    def row(self) -> str:
        straight = self.direct.figures() if self.direct else "–"
        listed = sum(map(self.expected, self.amiss))
        others = sorted({str(check) for check in self.unexpected()})
        cells = (self.suite, self.backend, straight, self.through.figures(), str(listed), ", ".join(others) or "none")
        return f"| {' | '.join(cells)} |"


def report(pairs: list[Pair]) -> bool:
    """Prints the table, what is amiss, and what is wrong with it; whether nothing is."""
    print("| suite | server | straight | through chillgate | amiss, listed | amiss, not listed |")
    print("|---|---|---|---|---|---|")
    for pair in pairs:
        print(pair.row())
    print("\nStraight and through chillgate: passed/failed checks.")

    reasons: dict[tuple[str, str, str], list[str]] = {}
    for pair in pairs:
        for entry in pair.listed:
            if entry.check in map(str, pair.amiss):
                names = reasons.setdefault((entry.suite, entry.backend, entry.reason), [])
                if entry.check not in names:
                    names.append(entry.check)
    if reasons:
        print("\nListed:\n")
    for (suite, backend, reason), names in reasons.items():
        print(f"- {suite} `{backend}`: {reason}: {', '.join(names)}")

    wrong = []
    for pair in pairs:
        for check in pair.unexpected():
            message = pair.through.messages.get(check) or "no message"
            where = f"{pair.suite} {pair.backend} {check} ({check.name})"
            wrong.append(f"not listed: {where}: {pair.amiss[check]}: {message}")
        for entry in pair.stale():
            wrong.append(f"listed, but not amiss: {EXPECTED.name}:{entry.line}: {entry.check} for {pair.backend}")
    if wrong:
        print("\nWrong:\n")
    for line in wrong:
        print(f"- {line}")
    return not wrong


# --- the whole --------------------------------------------------------------------------------


def run(tools: Tools, out: Path) -> bool:
    listed = expectations(EXPECTED)
    direct: dict[tuple[str, str], Results] = {}
    pairs = []
    for suite in SUITES:
        for backend in BACKENDS:
            server = backend.partition("-")[0]
            if tools.only not in backend:
                continue
            if suite in SPOKEN[server] and (suite, server) not in direct:
                folder = out / suite / f"{server}-straight"
                folder.mkdir(parents=True)
                print(f"{suite}, straight at {server}", file=sys.stderr)
                with http_server(tools, server, folder / "server.log") as url:
                    direct[suite, server] = run_suite(tools, suite, url, folder)
            folder = out / suite / backend
            folder.mkdir(parents=True)
            print(f"{suite}, through chillgate to {backend}", file=sys.stderr)
            with chillgate(tools, backend, folder) as url:
                through = run_suite(tools, suite, url, folder)
            straight = direct.get((suite, server))
            mine = [entry for entry in listed if entry.covers(suite, backend)]
            pairs.append(Pair(suite, backend, straight, through, amiss(straight, through), mine))
    return report(pairs)


def arguments() -> tuple[Tools, Path | None]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chillgate", type=Path, required=True, help="the binary")
    parser.add_argument("--node", type=Path, required=True, help="Node 22 or newer")
    parser.add_argument("--suite", type=Path, required=True, help="the suite's dist/index.js")
    parser.add_argument("--smoke", action="store_true", help="a few scenarios of each pair, within a minute")
    parser.add_argument("--dual", type=Path, required=True, help="the dual-server fixture's binary")
    parser.add_argument("--only", default="", help="only servers with this in their name, such as dual-http")
    parser.add_argument("--out", type=Path, help="keep the checks and logs here; must be empty or absent")
    given = parser.parse_args()
    for path in (given.chillgate, given.dual, given.node, given.suite, EVERYTHING):
        if not path.is_file():
            parser.error(f"there is no file {path}")
    if given.out and given.out.exists() and any(given.out.iterdir()):
        parser.error(f"{given.out} is not empty")
    binaries = (given.chillgate.resolve(), given.dual.resolve(), given.node.resolve(), given.suite.resolve())
    return Tools(*binaries, given.smoke, given.only), given.out


def main() -> int:
    tools, out = arguments()
    # Ended from outside, it still ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    with ExitStack() as stack:
        if out is None:
            out = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="conformance-")))
        try:
            return 0 if run(tools, out.resolve()) else 1
        except CannotRun as error:
            print(f"run.py: {error}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())

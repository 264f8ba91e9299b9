"""The official MCP conformance suite straight at servers and through chillgate, check by check.

    run.py --chillgate BIN --dual BIN --node NODE22 --suite INDEX_JS [--smoke] [--leg LEG] [--only SERVER]
           [--out DIR] [--write README]

It stands apart from the Rust tests because neither the suite nor its Node is needed to build or to
change chillgate, and because its verdict is somebody else's. It has three legs:

- http: for each pair of a requirement set and a server it starts the server and a chillgate of its
  own, runs the suite through chillgate and, where the server speaks the revision of the set over
  HTTP, straight at the server as well. A server over stdio is compared with the same server over
  HTTP: the suite itself speaks HTTP only.
- stdio: the same with a chillgate that speaks stdio to its host; `shim.py` stands between it and
  the suite. What is a rule of HTTP alone is left out: `HTTP_ALONE`.
- client: the suite is the server and judges what chillgate sends it; `client.py` is the host.
  Nothing may fail or warn there.

A check is *amiss* through chillgate when it fails or warns there and is not just as bad straight at
the server, or when it succeeds straight at the server and not there. `expected-failures.txt` lists
what may be amiss. Exit 0: what is amiss is what is listed. Exit 1: something else is amiss, or a
listed check is not. Exit 2: a run could not be made.

It never listens or connects beyond loopback, never ends a process that it has not started, never
waits without a bound, and never tries anything twice. It writes to no file but the one it is told
to, and there only between the two comments that are made for it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

HERE = Path(__file__).resolve().parent
INTEROP = HERE.parent / "interop" / "ts"
EVERYTHING = INTEROP / "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
EXPECTED = HERE / "expected-failures.txt"
BEGIN, END = (f"<!-- conformance: {word} of what run.py --write puts here -->" for word in ("begin", "end"))

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
HTTP, STDIO, CLIENT = LEGS = ("http", "stdio", "client")
BACKENDS = (*(f"{server}-{transport}" for server in SPOKEN for transport in ("stdio", "http")), "everything-sse")
WRAPPED = ("dual-stdio", "modern-stdio", "legacy-stdio")
# The suite's mock servers: the era that chillgate is told they are of, and the era of the host.
ERAS = {MODERN_SUITE: ("auto", "modern"), LEGACY_SUITE: ("auto", "legacy")}
HOSTS = ("modern", "legacy")
MOCKS = {suite: tuple(f"mock-{era}-{host}" for era in eras for host in HOSTS) for suite, eras in ERAS.items()}

# Scenarios, or SCENARIO:CHECK, that say nothing about stdio, and why.
HTTP_ALONE = {
    "server-sse-multiple-streams:server-sse-streams-functional": "event streams: of HTTP alone, and the shim's",
    "dns-rebinding-protection": "`Host` and `Origin`: a rule of HTTP alone",
    "http-header-validation": "headers: a rule of HTTP alone",
    "http-custom-header-server-validation": "headers: a rule of HTTP alone",
    "tasks-request-headers": "headers: a rule of HTTP alone",
    "server-session-lifecycle": "session ids and DELETE: a rule of HTTP alone",
    "server-sse-polling": "streams that are resumed: a rule of HTTP alone",
    "server-initialize:server-session-id-visible-ascii": "session ids: a rule of HTTP alone",
    "server-stateless:*-400": "the status of an error: a rule of HTTP alone",
    "server-stateless:*-404*": "the status of an error: a rule of HTTP alone",
}

# What the suite asks of clients and chillgate is asked here.
ASKED = {
    MODERN_SUITE: (
        "tools_call",
        "request-metadata",
        "http-standard-headers",
        "http-custom-headers",
        "http-invalid-tool-headers",
        "sep-2322-client-request-state",
        "json-schema-ref-no-deref",
        "json-schema-2020-12-preservation",
    ),
    LEGACY_SUITE: (
        "initialize",
        "tools_call",
        "elicitation-sep1034-client-defaults",
        "sse-retry",
        "json-schema-2020-12-preservation",
    ),
}
# What no set requires, being of an extension, and is asked all the same: with either set, of each mock.
EXTENSIONS = ("auth/client-credentials-basic",)
# And what is not asked. Of servers the suite asks nothing about tokens: no scenario of its needs one to be let in.
NOT_ASKED = {
    "auth/client-credentials-jwt": "chillgate shows an issuer a secret, and signs nothing",
    "auth/enterprise-managed-authorization": "an identity provider's assertion is not to be had from what a host shows",
    "auth/wif-jwt-bearer": "chillgate shows an issuer a secret, and no workload's token",
    "auth/dpop*": "tokens are bearers'; chillgate has no key to bind one to",
    "auth/*": "flows with a user at a browser, discovery and registration: chillgate is told where tokens are had",
}

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
# The same of what chillgate is as a client: what it has to add, and questions on the way.
SMOKE_ASKED = {
    MODERN_SUITE: ("http-custom-headers", "sep-2322-client-request-state"),
    LEGACY_SUITE: ("tools_call", "elicitation-sep1034-client-defaults"),
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
    legs: tuple[str, ...]
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
    entries: list[tuple[str, dict]] = field(default_factory=list)

    @property
    def scenarios(self) -> set[str]:
        return {check.scenario for check in self.statuses}

    def without(self, names: Iterable[str]) -> Results:
        """The same run, less the scenarios and checks of these names."""
        results = Results()
        for scenario, entry in self.entries:
            if not matches(f"{scenario}:{entry['id']}", names):
                results.add(scenario, entry)
        return results

    def met(self, scenarios: Iterable[str]) -> int:
        """How many of the scenarios were run and have nothing that failed."""
        failed = {check.scenario for check, status in self.statuses.items() if status == "FAILURE"}
        return len(self.scenarios.intersection(scenarios) - failed)

    def add(self, scenario: str, entry: dict) -> None:
        self.entries.append((scenario, entry))
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


def entry(tools: Tools, backend: str, folder: Path, stack: ExitStack) -> str:
    """The server's keys in a configuration; one over HTTP runs as long as the stack."""
    server, _, transport = backend.partition("-")
    if transport == "stdio":
        return f"command = {json.dumps(stdio_command(tools, server))}"
    url = stack.enter_context(http_server(tools, server, folder / "server.log", transport))
    return f"url = {json.dumps(url)}" + ('\ntransport = "http-sse"' if transport == "sse" else "")


@contextmanager
def serving(binary: Path, server: str, keys: str, folder: Path):
    """A chillgate with one server; gives the URL of the server's own endpoint."""
    front, health = free_port(), free_port()
    config = folder / "chillgate.toml"
    config.write_text(
        f'[[front]]\nlisten = "127.0.0.1:{front}"\n\n'
        f'[health]\nlisten = "127.0.0.1:{health}"\n\n'
        f"[server.{server}]\n{keys}\n"
    )
    words = [str(binary), "serve", "--config", str(config)]
    with running(words, folder / "chillgate.log") as process:
        await_ready("chillgate", process, lambda: says_ready(health))
        yield f"http://127.0.0.1:{front}/server/{server}/mcp"
        if process.poll() is not None:
            raise CannotRun(f"chillgate ended with {process.returncode} while the suite ran")


@contextmanager
def shimmed(tools: Tools, suite: str, backend: str, folder: Path):
    """chillgate between standard input and output; gives the URL that stands for them."""
    server, _, transport = backend.partition("-")
    if transport != "stdio":
        raise CannotRun(f"`chillgate wrap` starts its server: {backend} cannot be wrapped")
    port = free_port()
    era = "modern" if suite == MODERN_SUITE else "legacy"
    gate = [str(tools.chillgate), "wrap", "--name", server, "--", *stdio_command(tools, server)]
    words = [sys.executable, str(HERE / "shim.py"), "--era", era, "--port", str(port), "--", *gate]
    # No configuration of the user's: an empty one would have to set something.
    env = {"XDG_CONFIG_HOME": str(folder)}
    with running(words, folder / "shim.log", env) as process:
        await_ready("the shim", process, lambda: accepts(port))
        yield f"http://127.0.0.1:{port}/mcp"
        end(process)
        if process.returncode != 0:
            raise CannotRun(f"a chillgate on stdio ended badly; see {folder / 'shim.log'}")


@contextmanager
def chillgate(tools: Tools, backend: str, folder: Path):
    """chillgate with an HTTP front in front of the backend; gives the URL of the server's endpoint."""
    with ExitStack() as stack:
        keys = entry(tools, backend, folder, stack)
        yield stack.enter_context(serving(tools.chillgate, backend.partition("-")[0], keys, folder))


# --- the suite --------------------------------------------------------------------------------


def required(tools: Tools, suite: str) -> dict[str, list[str]]:
    """The scenarios that the suite scores, of servers and of clients, in its own words."""
    words = [str(tools.node), str(tools.suite), "list", "--requirements", suite]
    told = subprocess.run(words, capture_output=True, text=True, timeout=SCENARIO_SECONDS, check=False)
    lists: dict[str, list[str]] = {"Server": [], "Client": []}
    found: list[str] | None = None
    for line in told.stdout.splitlines():
        if heading := re.match(r"(Server|Client) scenarios ", line):
            found = lists[heading[1]]
        elif found is not None and line.startswith("  - "):
            found.append(line[4:].strip())
        elif line.strip():
            found = None
    if told.returncode != 0 or not all(lists.values()):
        raise CannotRun(f"the suite does not list what {suite} requires: {told.stderr or told.stdout}")
    unknown = [name for name in lists["Client"] if name not in ASKED[suite] and not matches(name, NOT_ASKED)]
    if unknown:
        raise CannotRun(f"{suite} requires of clients what nothing is said about here: {', '.join(unknown)}")
    return lists


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a SCENARIO, or the scenario of a SCENARIO:CHECK, or the check itself is named."""
    return any(fnmatchcase(word, pattern) for word in (name, name.split(":")[0]) for pattern in patterns)


def run_clients(tools: Tools, suite: str, backend: str, folder: Path) -> Results:
    """Lets the suite judge what chillgate sends, scenario by scenario: all at once would ask more."""
    _, era, host = backend.split("-")
    output = folder / "checks"
    driver = [sys.executable, str(HERE / "client.py"), "--chillgate", str(tools.chillgate)]
    driver += ["--era", era, "--host", host, "--folder", str(folder / "gates")]
    env = {"NODE_OPTIONS": f"--require {HERE / 'loopback.cjs'}"}
    asked = (*(SMOKE_ASKED if tools.smoke else ASKED)[suite], *EXTENSIONS)
    for scenario in asked:
        words = [str(tools.node), str(tools.suite), "client", "--command", shlex.join(driver)]
        # An extension is of no revision.
        revision = [] if scenario in EXTENSIONS else ["--spec-version", suite]
        words += ["--scenario", scenario, *revision, "-o", str(output)]
        suite_process(words, folder / f"{scenario.replace('/', '-')}.log", SCENARIO_SECONDS, env)
    results = read(output, "")
    for path in sorted(output.glob("**/stderr.txt")):
        # The suite hears whether its client ended well, and writes it nowhere.
        said = path.read_text().strip()
        check = {"id": "calls-answered", "name": "CallsAnswered", "errorMessage": said}
        results.add(scenario_of(path, output, ""), {**check, "status": "FAILURE" if said else "SUCCESS"})
    if missing := set(asked) - results.scenarios:
        raise CannotRun(f"the suite left no checks of {', '.join(sorted(missing))} in {output}")
    return results


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
    results = read(output, "server-")
    missing = set(SMOKE[suite]) - results.scenarios
    if missing:
        raise CannotRun(f"the suite left no checks of {', '.join(sorted(missing))} in {output}")
    return results


def suite_process(words: list[str], log: Path, seconds: float, env: dict[str, str] | None = None) -> None:
    with running(words, log, env) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise CannotRun(f"the suite took more than {seconds} s; see {log}") from None
    # 1 is its word for failed checks, which are read from the files.
    if process.returncode not in (0, 1):
        raise CannotRun(f"the suite ended with {process.returncode}; see {log}")


def scenario_of(path: Path, output: Path, prefix: str) -> str:
    # PREFIX SCENARIO-DATETZ, where a scenario's own name may begin with "server-", or have a folder in it
    name = path.parent.relative_to(output).as_posix()
    return re.sub(r"-\d{4}-\d\d-\d\dT[\d-]+Z$", "", name)[len(prefix) :]


def read(output: Path, prefix: str) -> Results:
    results = Results()
    # A scenario's own name may have a folder in it.
    for path in sorted((*output.glob(f"{prefix}*/checks.json"), *output.glob(f"*/{prefix}*/checks.json"))):
        for entry in json.loads(path.read_text()):
            results.add(scenario_of(path, output, prefix), entry)
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
        known = (*BACKENDS, *MOCKS[entry.suite])
        if not any(fnmatchcase(backend, entry.backend) for backend in known):
            raise CannotRun(f"{path.name}:{number}: `{entry.backend}` is none of {', '.join(known)}")
        listed.append(entry)
    return listed


@dataclass
class Pair:
    suite: str
    leg: str
    backend: str
    direct: Results | None
    through: Results
    required: list[str]
    amiss: dict[Check, str]
    listed: list[Expected]
    smoke: bool

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
        listed = sum(map(self.expected, self.amiss))
        met = "–" if self.smoke else f"{self.through.met(self.required)} of {len(self.required)}"
        ends = (listed or "none", len(self.unexpected()) or "none")
        if self.leg == CLIENT:
            _, era, host = self.backend.split("-")
            cells = (self.suite, host, era, self.through.figures(), met, *ends)
        else:
            server, _, transport = self.backend.partition("-")
            straight = self.direct.figures() if self.direct else "–"
            front = {HTTP: "HTTP", STDIO: "stdio"}[self.leg]
            shown = f"{server}, {TRANSPORTS[transport]}"
            cells = (self.suite, front, shown, straight, self.through.figures(), met, *ends)
        return f"| {' | '.join(map(str, cells))} |"


TRANSPORTS = {"stdio": "stdio", "http": "HTTP", "sse": "HTTP+SSE"}
SERVERS_HEAD = ("suite", "front", "server", "straight", "through chillgate", "required", "amiss, listed", "not listed")
CLIENTS_HEAD = ("suite", "host", "era of the server", "through chillgate", "required", "amiss, listed", "not listed")


def table(pairs: list[Pair]) -> str:
    """What is printed and published: what chillgate is to hosts, and what it is to servers."""
    parts = []
    for head, part in (
        (SERVERS_HEAD, [pair for pair in pairs if pair.leg != CLIENT]),
        (CLIENTS_HEAD, [pair for pair in pairs if pair.leg == CLIENT]),
    ):
        if part:
            lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(pair.row() for pair in part)]
            parts.append("\n".join(lines))
    return "\n\n".join(parts)


def publish(path: Path, pairs: list[Pair]) -> None:
    """Puts the table in the place of the one between the two comments."""
    whole = path.read_text()
    if whole.count(BEGIN) != 1 or whole.count(END) != 1 or whole.index(BEGIN) > whole.index(END):
        raise CannotRun(f"{path} does not have `{BEGIN}` and then `{END}`, each once")
    before, rest = whole.split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n\n{table(pairs)}\n\n{END}{after}")


def report(pairs: list[Pair]) -> bool:
    """Prints the table, what is amiss, and what is wrong with it; whether nothing is."""
    print(table(pairs))
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
            where = f"{pair.suite} {pair.leg} {pair.backend} {check} ({check.name})"
            wrong.append(f"not listed: {where}: {pair.amiss[check]}: {message}")
        for entry in pair.stale():
            wrong.append(f"listed, but not amiss: {EXPECTED.name}:{entry.line}: {entry.check} for {pair.backend}")
    if wrong:
        print("\nWrong:\n")
    for line in wrong:
        print(f"- {line}")
    return not wrong


# --- the whole --------------------------------------------------------------------------------


def run(tools: Tools, out: Path, readme: Path | None) -> bool:
    listed = expectations(EXPECTED)
    pairs = []
    for suite in SUITES:
        scored = required(tools, suite)
        direct: dict[str, Results] = {}
        for leg, backends in ((HTTP, BACKENDS), (STDIO, WRAPPED), (CLIENT, MOCKS[suite])):
            for backend in backends:
                if leg not in tools.legs or tools.only not in backend:
                    continue
                folder = out / suite / leg / backend
                folder.mkdir(parents=True)
                print(f"{suite}, {leg}, through chillgate to {backend}", file=sys.stderr)
                straight, wanted = None, scored["Server"]
                if leg == CLIENT:
                    through = run_clients(tools, suite, backend, folder)
                    wanted = [name for name in scored["Client"] if not matches(name, NOT_ASKED)]
                elif leg == HTTP:
                    straight = straight_at(tools, suite, backend, direct, out)
                    with chillgate(tools, backend, folder) as url:
                        through = run_suite(tools, suite, url, folder)
                else:
                    straight = straight_at(tools, suite, backend, direct, out)
                    straight = straight and straight.without(HTTP_ALONE)
                    with shimmed(tools, suite, backend, folder) as url:
                        through = run_suite(tools, suite, url, folder).without(HTTP_ALONE)
                    wanted = [name for name in wanted if not matches(name, HTTP_ALONE)]
                mine = [entry for entry in listed if entry.covers(suite, backend)]
                if leg == STDIO:
                    mine = [entry for entry in mine if not matches(entry.check, HTTP_ALONE)]
                found = amiss(straight, through)
                pairs.append(Pair(suite, leg, backend, straight, through, wanted, found, mine, tools.smoke))
    if not pairs:
        raise CannotRun("nothing is of that leg and name")
    good = report(pairs)
    # What is wrong is published as well: the table says it.
    if readme:
        publish(readme, pairs)
    return good


def straight_at(tools: Tools, suite: str, backend: str, known: dict[str, Results], out: Path) -> Results | None:
    """What the set gives without chillgate, once for each server; nothing where it cannot be run."""
    server = backend.partition("-")[0]
    if suite in SPOKEN[server] and server not in known:
        folder = out / suite / f"{server}-straight"
        folder.mkdir(parents=True)
        print(f"{suite}, straight at {server}", file=sys.stderr)
        with http_server(tools, server, folder / "server.log") as url:
            known[server] = run_suite(tools, suite, url, folder)
    return known.get(server)


def arguments() -> tuple[Tools, Path | None, Path | None]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chillgate", type=Path, required=True, help="the binary")
    parser.add_argument("--node", type=Path, required=True, help="Node 22 or newer")
    parser.add_argument("--suite", type=Path, required=True, help="the suite's dist/index.js")
    parser.add_argument("--smoke", action="store_true", help="a few scenarios of each pair")
    parser.add_argument("--dual", type=Path, required=True, help="the dual-server fixture's binary")
    parser.add_argument("--leg", action="append", choices=LEGS, help="only this leg; may be given again")
    parser.add_argument("--only", default="", help="only servers with this in their name, such as dual-http")
    parser.add_argument("--out", type=Path, help="keep the checks and logs here; must be empty or absent")
    parser.add_argument("--write", type=Path, metavar="README", help="put the table there, between its comments")
    given = parser.parse_args()
    for path in (given.chillgate, given.dual, given.node, given.suite, EVERYTHING):
        if not path.is_file():
            parser.error(f"there is no file {path}")
    if given.out and given.out.exists() and any(given.out.iterdir()):
        parser.error(f"{given.out} is not empty")
    if given.write and (given.smoke or given.leg or given.only):
        parser.error("only the whole table is published")
    binaries = (given.chillgate.resolve(), given.dual.resolve(), given.node.resolve(), given.suite.resolve())
    return Tools(*binaries, given.smoke, tuple(given.leg or LEGS), given.only), given.out, given.write


def main() -> int:
    tools, out, readme = arguments()
    # Ended from outside, it still ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    with ExitStack() as stack:
        if out is None:
            out = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="conformance-")))
        try:
            return 0 if run(tools, out.resolve(), readme) else 1
        except CannotRun as error:
            print(f"run.py: {error}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())

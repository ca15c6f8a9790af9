"""Measures nodes beside a bare axum handler, in one run. `scripts/bench` builds everything and calls it.

Each leg loads one server for some seconds. Legs alternate, so that whatever the machine does meanwhile
meets all of them alike, and medians over the rounds are compared. The server has a core to itself; the
generator, and Redis, have the other. Servers that are not being measured are stopped by a signal.
"""

import argparse
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.request import urlopen

SERVER_CORE, GENERATOR_CORE = 0, 1
CONNECTIONS = 64
MANY_KEYS = 100_000
WARM_UP = 1
# Beyond this part of its core taken by others, a leg is measured once more, and the better one counts.
DISTURBED, TRIES = 0.03, 2
TICKS = os.sysconf("SC_CLK_TCK")
HERE = Path(__file__).resolve().parent
REQUEST = '{"attributes":{"api_key":"key-000000","route":"/api/orders"},"cost":1}'


def cpu_seconds(pid):
    """User and system time of a process, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def core_seconds(core):
    """How long a core has been taken by processes of this machine, and by its other guests.

    Interrupts are left out: most of them are the measured connections' own, on whoever's account.
    """
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, _irq, _softirq, steal = map(int, ticks[:8])
            return (user + nice + system + steal) / TICKS
    raise SystemExit(f"this machine has no core {core}; two are needed")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A child process, pinned to a core, that listens on a port."""

    def __init__(self, core, port, *command):
        self.port = port
        self.process = subprocess.Popen(
            ["taskset", "-c", str(core), *map(str, command)],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "RUST_LOG": "warn"},
        )
        deadline = time.monotonic() + 10
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not listen on port {port}")
            time.sleep(0.02)

    @property
    def pid(self):
        return self.process.pid

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def answers(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        except OSError:
            return False

    def end(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


class Node(Server):
    """A node without peers."""

    def __init__(self, tidegate, directory, policies, redis=None):
        http, self.admin = free_port(), free_port()
        config = directory / f"node-{http}.toml"
        config.write_text(
            f'policies = "{policies}"\n'
            f'[listen]\nhttp = "127.0.0.1:{http}"\nadmin = "127.0.0.1:{self.admin}"\n'
            + (self.store(redis, http) if redis else "")
        )
        super().__init__(SERVER_CORE, http, tidegate, "serve", "--config", config)
        self.await_ready()

    @staticmethod
    def store(redis, http):
        # A pause of the machine is not to be measured as a failed store.
        return (
            f'[store]\nkind = "redis"\nurl = "redis://127.0.0.1:{redis.port}/0"\n'
            f'timeout = "1s"\nnamespace = "bench-{http}"\n'
        )

    def asks(self, path):
        try:
            with urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=5) as answer:
                return answer.read().decode()
        except OSError:
            return None

    def await_ready(self):
        deadline = time.monotonic() + 10
        while self.asks("/readyz") is None:
            if time.monotonic() > deadline:
                raise SystemExit("a node does not become ready")
            time.sleep(0.02)

    def store_errors(self):
        samples = (self.asks("/metrics") or "").splitlines()
        return sum(float(s.split()[-1]) for s in samples if s.startswith("tidegate_store_errors_"))


@dataclass
class Leg:
    """What one server did under load for some seconds."""

    limits: int
    name: str
    round: int
    requests: int
    per_second: float
    server_us: float
    redis_us: float | None
    p50_us: int
    p99_us: int
    errors: int
    disturbed: float


class Load:
    """wrk, pinned to the generator's core."""

    def __init__(self, directory):
        self.report = directory / "report.json"

    def put_on(self, server, keys, seconds):
        subprocess.run(
            ["taskset", "-c", str(GENERATOR_CORE), "wrk", "-t1", f"-c{CONNECTIONS}"]
            + [f"-d{seconds}s", "-s", str(HERE / "checks.lua"), server.url, "--", str(keys)],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "REPORT": str(self.report)},
        )
        return json.loads(self.report.read_text())


@dataclass
class Contender:
    """One row of the table."""

    name: str
    server: Server
    keys: int
    redis: Server | None = None

    def leg(self, load, limits, round_, seconds):
        self.server.process.send_signal(signal.SIGCONT)
        load.put_on(self.server, self.keys, WARM_UP)
        pids = [self.server.pid] + ([self.redis.pid] if self.redis else [])
        before = [cpu_seconds(pid) for pid in pids]
        started, core = time.monotonic(), core_seconds(SERVER_CORE)
        seen = load.put_on(self.server, self.keys, seconds)
        used = [cpu_seconds(pid) - at for pid, at in zip(pids, before)]
        others = core_seconds(SERVER_CORE) - core - used[0]
        elapsed = time.monotonic() - started
        # What is still under way ends before the server is stopped.
        time.sleep(0.05)
        self.server.process.send_signal(signal.SIGSTOP)
        requests = max(seen["requests"], 1)
        return Leg(
            limits,
            self.name,
            round_,
            seen["requests"],
            requests / seen["seconds"],
            used[0] / requests * 1e6,
            used[1] / requests * 1e6 if self.redis else None,
            seen["p50_us"],
            seen["p99_us"],
            seen["errors"],
            max(others, 0) / elapsed,
        )


def contenders(arguments, directory, policies, redis):
    """The servers that are compared under one policy file, the bare handler first."""
    memory = Node(arguments.tidegate, directory, HERE / policies)
    by_redis = Node(arguments.tidegate, directory, HERE / policies, redis)
    # Counts have most of their digits before an answer is taken as the constant.
    Load(directory).put_on(memory, 1, WARM_UP)
    port = free_port()
    bare = [arguments.baseline, "--listen", f"127.0.0.1:{port}", "--like", memory.url]
    return [
        Contender("A  bare axum handler", Server(SERVER_CORE, port, *bare, "--request", REQUEST), 1),
        Contender("B  memory, 1 key", memory, 1),
        Contender(f"B2 memory, {MANY_KEYS // 1000} k keys", memory, MANY_KEYS),
        Contender("C  Redis, 1 key", by_redis, 1, redis),
    ]


def measure(arguments, directory, redis):
    load, legs = Load(directory), []
    fields = {1: contenders(arguments, directory, "one-limit.toml", redis)}
    fields[2] = contenders(arguments, directory, "two-limits.toml", redis)
    servers = {id(c.server): c.server for field in fields.values() for c in field}.values()
    try:
        for server in servers:
            server.process.send_signal(signal.SIGSTOP)
        for round_ in range(1, arguments.rounds + 1):
            for limits, field in fields.items():
                for contender in field:
                    tries = []
                    while not tries or tries[-1].disturbed > DISTURBED and len(tries) < TRIES:
                        tries.append(contender.leg(load, limits, round_, arguments.seconds))
                    leg = min(tries, key=lambda leg: leg.disturbed)
                    legs.append(leg)
                    print(
                        f"round {round_}, {limits} limit(s), {leg.name:24}"
                        f"{leg.per_second:9.0f}/s {leg.server_us:7.2f} us"
                        f"{leg.disturbed:6.0%} of its core taken by others",
                        file=sys.stderr,
                    )
        failed = 0
        for server in servers:
            server.process.send_signal(signal.SIGCONT)
            failed += server.store_errors() if isinstance(server, Node) else 0
    finally:
        for server in servers:
            server.end()
    return legs, failed


def table(legs):
    """The medians, and their ratios to the bare handler's, as Markdown."""
    lines = []
    for limits in sorted({leg.limits for leg in legs}):
        lines += [
            f"| {limits} limit{'s' if limits > 1 else ''} | requests/s | of A | server CPU us | of A "
            "| Redis CPU us | p50 us | p99 us |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        names = list(dict.fromkeys(leg.name for leg in legs))
        bare = None
        for name in names:
            rows = [leg for leg in legs if (leg.limits, leg.name) == (limits, name)]
            median = lambda field: statistics.median(getattr(leg, field) for leg in rows)
            rate, cpu = median("per_second"), median("server_us")
            bare = bare or (rate, cpu)
            redis = f"{median('redis_us'):.1f}" if rows[0].redis_us is not None else ""
            lines.append(
                f"| {name} | {rate:,.0f} | {rate / bare[0]:.2f} | {cpu:.2f} | {cpu / bare[1]:.2f} "
                f"| {redis} | {median('p50_us'):.0f} | {median('p99_us'):.0f} |"
            )
        lines.append("")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tidegate", required=True, type=Path)
    parser.add_argument("--baseline", required=True, type=Path)
    parser.add_argument("--short", action="store_true", help="3 rounds of 1 s instead of 5 of 2 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every leg's figures")
    arguments = parser.parse_args()
    arguments.rounds, arguments.seconds = (3, 1) if arguments.short else (5, 2)
    os.sched_setaffinity(0, {GENERATOR_CORE})

    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as name:
        directory, port = Path(name), free_port()
        settings = ["--port", port, "--save", "", "--appendonly", "no", "--dir", directory]
        redis = Server(GENERATOR_CORE, port, "redis-server", *settings)
        try:
            legs, failed = measure(arguments, directory, redis)
        finally:
            redis.end()

    print(table(legs))
    disturbed = sum(leg.disturbed > DISTURBED for leg in legs)
    errors = sum(leg.errors for leg in legs)
    print(
        f"{len(legs)} legs of {arguments.seconds} s; in {disturbed} of them others took more than "
        f"{DISTURBED:.0%} of the server's core; {errors} errors, {failed:.0f} failed calls of a store."
    )
    if arguments.json:
        machine = {"system": platform.platform(), "cores": os.cpu_count()}
        raw = {"machine": machine, "seconds": arguments.seconds, "legs": [asdict(l) for l in legs]}
        arguments.json.write_text(json.dumps(raw, indent=1) + "\n")
    sys.exit(1 if errors or failed else 0)


if __name__ == "__main__":
    main()

"""The benchmark: starts its own servers, measures every part, writes a table, JSON and charts.

`pip install -e '.[bench]'` first. `--quick` takes a minute or so: fewer samples, smaller fleets. The exit code is 1
where a part could not be measured; a bound that was missed is a result like any other.
"""

import argparse
import importlib.util
import logging
import shutil
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from benchmarks import background, capacity, footprint, hotpath, propagation, report
from benchmarks.measure import Row, machine, not_measured
from redis_router.store.connect import connect
from redis_router.testing.server import EmbeddedServer

RESULTS = Path(__file__).parent / "results"
EXTRA = ("interlock", "litellm", "matplotlib", "purgatory", "pybreaker")


def parts(*, quick: bool, free_threaded: str | None) -> dict[str, Callable[[EmbeddedServer], list[Row]]]:
    """What there is to measure, in the order of the report; each on a server of its own."""

    def few(quickly: int, otherwise: int) -> int:
        return quickly if quick else otherwise

    def threads(server: EmbeddedServer) -> list[Row]:
        rows = hotpath.threads(server.url, few(3, 15))
        return rows + (hotpath.without_gil(server.url, free_threaded, few(3, 15)) if free_threaded else [])

    def choosing(server: EmbeddedServer) -> list[Row]:
        from benchmarks import peers

        return peers.choosing(server.url, few(3, 15))

    def guarding(server: EmbeddedServer) -> list[Row]:
        from benchmarks import peers

        assert server.process is not None
        return peers.guarding(server.url, few(3, 15), server.process.pid)

    fleets = ((20, 0),) if quick else ((2, 0), (20, 0), (20, 500), (20, 2_000))
    return {
        "select": lambda server: hotpath.choosing(server.url, few(5, 25)),
        "table": lambda server: hotpath.rebuilding(few(5, 25)),
        "attempt": lambda server: hotpath.attempting(server.url, few(5, 25)),
        "threads": threads,
        "choosing": choosing,
        "guarding": guarding,
        "commands": lambda server: footprint.commands(server.url, few(2, 5), few(1, 5)),
        "background": lambda server: background.run(server.url, few(1, 7), few(1, 6)),
        "propagation": lambda server: propagation.run(server.url, few(1, 5), few(10, 50), fleets),
        "server": lambda server: capacity.full_batches(server.url, few(2, 7), few(2_000, 5_000)),
        "scaling": lambda server: capacity.scaling(
            server.url, (1, 10) if quick else (1, 10, 100, 1000), few(2, 10), REPLICA_RATE
        ),
        "memory": lambda server: footprint.memory(server.url),
        "import": lambda server: footprint.importing(few(2, 11)),
    }


REPLICA_RATE = 20
"""Requests/s of a replica in the scaling part: 1,000 of them make what one core of a server still carries."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=list(parts(quick=True, free_threaded=None)))
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder for what is written")
    parser.add_argument(
        "--free-threaded",
        default=shutil.which("python3.14t") or shutil.which("python3.13t"),
        help="a CPython without GIL that has the library's dependencies; found on PATH where not given",
    )
    arguments = parser.parse_args()
    if missing := [name for name in EXTRA if importlib.util.find_spec(name) is None]:
        print(f"{', '.join(missing)} missing: pip install -e '.[bench]'")
        return 2
    warnings.simplefilter("ignore", RuntimeWarning)
    logging.getLogger("redis_router").setLevel(logging.ERROR)
    rows: list[Row] = []
    began = time.monotonic()
    for name, measure in parts(quick=arguments.quick, free_threaded=arguments.free_threaded).items():
        if arguments.only and name not in arguments.only:
            continue
        print(f"{name} …", flush=True)
        for each in measured(name, measure):
            rows.append(each)
            verdict = {True: "kept", False: "MISSED", None: ""}[each.met]
            print(f"  {each.what:82} {report.number(each.median):>9} {each.unit:15} {each.target:9} {verdict}")
    path = report.write(arguments.results, rows, about(quick=arguments.quick), remarks(rows))
    print(f"{time.monotonic() - began:.0f} s; written: {path}, and benchmark.json and charts beside it")
    return int(any(each.samples == 0 for each in rows))


def measured(name: str, measure: Callable[[EmbeddedServer], list[Row]]) -> list[Row]:
    """The rows of a part; where it fails, a row that says so, and the others go on."""
    try:
        with EmbeddedServer() as server:
            return measure(server)
    except Exception as error:
        traceback.print_exc()
        if isinstance(error, subprocess.CalledProcessError):
            print(error.stderr, file=sys.stderr)
        return [not_measured(name, f"{type(error).__name__}: {error}".splitlines()[0])]


def about(*, quick: bool) -> dict[str, str]:
    """Where, what and when."""
    with EmbeddedServer() as server, closing(connect(server.url)) as client:
        said = client.info("server")
    return {
        "machine": machine(),
        "server": f"{said.get('server_name', 'redis')} {said.get('valkey_version') or said['redis_version']}",
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "command": "python -m benchmarks" + (" --quick: few samples, small fleets" if quick else ""),
    }


def commit() -> str:
    """Which code this was; "+" where it was changed since."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        ).stdout.strip()

    changed = git("status", "--porcelain", "--", "../redis_router", "../lua", ".", ":!results")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def remarks(rows: Sequence[Row]) -> dict[str, list[str]]:
    """What a figure does not say by itself."""
    found = {each.what: each.median for each in rows}
    said = {
        "select": [
            "The original, in Go and within its process, was given to us as 0.35 µs with 3 providers, 1.0 µs with 10"
            " and 116 µs with 1000; it was not measured here."
        ],
        "table": [
            "Made at once where a change moves calls; for averages at most every 50 ms, for at most 5 % of the time."
        ],
        "attempt": [
            "Blocks of 2,000 calls; the engine carries them to Redis between the blocks, untimed: what that costs is in"
            " its own rows."
        ],
        "threads": ["Two cores or not: all threads share one buffer, so more of them do not make more calls."],
        "background": [
            "Process CPU without the thread that records. What a wake-up costs on a cold core sets the floor: the fewer"
            " outcomes come between two, the more of it each carries."
        ],
        "propagation": [
            "All processes share this machine's cores, so the median waits until half of them were served. The floor is"
            " what bare subscribers of redis-py take here, from just before PUBLISH until the message is read; ours"
            " begins when `record_result` has returned, wakes the engine, runs the script, and ends with the new table"
            " in the other process."
        ],
        "memory": [
            "prometheus-client's series set the floor in a replica: two counters, three gauges, a state and a histogram"
            " of twelve buckets for each provider."
        ],
    }
    parts = {each.part for each in rows}
    if parts & {"peers: choosing", "peers: guarding"}:
        from benchmarks.peers import differences

        for name, text in differences.items():
            part = "peers: choosing" if name.startswith("LiteLLM") else "peers: guarding"
            said.setdefault(part, []).append(f"{name} {text}")
    if capacity.DELIVERY in found:
        said["scaling"] = paper(found[capacity.COMMAND], found[capacity.DELIVERY], found[capacity.SIZE])
    return said


def paper(command: float, delivery: float, size: float) -> list[str]:
    """What a fleet that does not fit this machine would cost, from the figures of one that does."""
    replicas, providers, half_a_core = 10_000, 200, 0.5e6
    commands = replicas * REPLICA_RATE
    lines = [
        f"On paper, from these figures: {replicas:,} replicas, {providers} providers, {REPLICA_RATE} requests/s each. A"
        " server executes on one thread, so what takes more than a core needs a cluster.",
        f"Commands: {commands:,} a second, of one outcome each (in 0.1 s a replica seldom has two for one of"
        f" {providers} providers): {commands * command / 1e6:.1f} cores.",
    ]
    for interval in (0.5, 5.0, 30.0):
        deliveries = providers / interval * replicas
        cores, megabytes = deliveries * delivery / 1e6, deliveries * size / 1e6
        lines.append(
            f"Averages pushed, with `push_interval` {interval:g} s: {deliveries:,.0f} deliveries a second:"
            f" {cores:.1f} cores, {megabytes:,.0f} MB/s."
        )
    nodes = -(-(commands * command + providers / 30 * replicas * delivery) // half_a_core)
    lines += [
        f"Besides: {replicas * providers / 30:,.0f} records re-read a second, two connections a replica (`maxclients`"
        f" is 10,000 by default), and some {replicas * providers * 136 / 1e6:,.0f} MB of last batches if every replica"
        " calls every provider within the hour.",
        "So: raise `push_interval` first (transitions are pushed at once whatever it is). One server carries"
        f" {half_a_core / command:,.0f} commands a second on half a core; beyond that move to a cluster: commands"
        f" spread by provider, subscribers over the nodes. This fleet, with 30 s, takes {nodes:.0f} nodes at half a"
        " core each.",
    ]
    return lines


if __name__ == "__main__":
    sys.exit(main())

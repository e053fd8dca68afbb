"""The benchmark: starts its own server, measures every part, writes a table, JSON and charts.

`pip install -e '.[bench]'` first. `--quick` takes a minute and skips the largest fleets.
"""

import argparse
import logging
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from benchmarks import background, capacity, hotpath, propagation, report
from benchmarks.measure import Row, machine
from redis_router.connect import connect
from redis_router.demo.server import EmbeddedServer

RESULTS = Path(__file__).parent / "results"


def parts(url: str, *, quick: bool, free_threaded: str | None) -> dict[str, Callable[[], list[Row]]]:
    """What there is to measure, in the order of the report."""

    def threads() -> list[Row]:
        rows = hotpath.threads(url, 3 if quick else 15)
        return rows + (hotpath.without_gil(url, free_threaded, 3 if quick else 15) if free_threaded else [])

    def choosing() -> list[Row]:
        from benchmarks import peers

        return peers.choosing(url, 3 if quick else 15)

    def guarding() -> list[Row]:
        from benchmarks import peers

        return peers.guarding(url, 3 if quick else 15)

    return {
        "select": lambda: hotpath.choosing(url, 5 if quick else 25),
        "table": lambda: hotpath.rebuilding(5 if quick else 25),
        "attempt": lambda: hotpath.attempting(url, 5 if quick else 25),
        "threads": threads,
        "choosing": choosing,
        "guarding": guarding,
        "commands": lambda: hotpath.commands(url, 2.0 if quick else 10.0),
        "background": lambda: background.run(url, 1 if quick else 7, 2.0 if quick else 8.0),
        "propagation": lambda: propagation.run(url, 20, 10 if quick else 100, (0,) if quick else (0, 100, 500)),
        "server": lambda: capacity.full_batches(url, 2 if quick else 7, 2_000 if quick else 5_000),
        "scaling": lambda: capacity.scaling(url, (1, 10) if quick else (1, 10, 100, 1000), 2.0 if quick else 10.0, 20),
        "memory": lambda: hotpath.memory(url),
        "import": lambda: hotpath.importing(2 if quick else 11),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=list(parts("", quick=True, free_threaded=None)))
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder for what is written")
    parser.add_argument(
        "--free-threaded",
        default=shutil.which("python3.14t") or shutil.which("python3.13t"),
        help="a CPython without GIL that has the library's dependencies; found on PATH where not given",
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)
    logging.getLogger("redis_router").setLevel(logging.ERROR)
    rows: list[Row] = []
    began = time.monotonic()
    with EmbeddedServer() as server:
        about = {
            "machine": machine(),
            "server": version(server.url),
            "commit": commit(),
            "date": time.strftime("%Y-%m-%d"),
            "command": "python -m benchmarks" + (" --quick" if arguments.quick else ""),
        }
        found = parts(server.url, quick=arguments.quick, free_threaded=arguments.free_threaded)
        for name, measure in found.items():
            if arguments.only and name not in arguments.only:
                continue
            print(f"{name} …", flush=True)
            for each in measure():
                rows.append(each)
                verdict = {True: "kept", False: "MISSED", None: ""}[each.met]
                print(f"  {each.what:75} {report.number(each.median):>10} {each.unit:18} {each.target:8} {verdict}")
    path = report.write(arguments.results, rows, about, remarks(rows))
    print(f"{time.monotonic() - began:.0f} s; written: {path}, and benchmark.json and charts beside it")


def version(url: str) -> str:
    """The server's name and version."""
    with closing(connect(url)) as client:
        said = client.info("server")
    return f"{said.get('server_name', 'redis')} {said.get('valkey_version') or said['redis_version']}"


def commit() -> str:
    """Which code this was; "+" where it was changed since."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        ).stdout.strip()

    changed = git("status", "--porcelain", "--", "../redis_router", "../lua", ".", ":!results")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def remarks(rows: list[Row]) -> dict[str, str]:
    """What a figure does not say by itself."""
    found = {each.what: each.median for each in rows}
    said = {
        "select": "The original, in Go and within its process, was given to us as 0.35 µs with 3 providers, 1.0 µs"
        " with 10 and 116 µs with 1000; it was not measured here.",
        "table": "Made at once where a change moves calls; for averages at most every 50 ms, and for at most 5 % of the"
        " time.",
        "attempt": "Blocks of 2,000 calls; the engine carries them to Redis between the blocks, untimed: what that"
        " costs is in its own rows.",
        "memory": "prometheus-client's series of a provider (a histogram, six gauges, a counter) set the floor.",
        "propagation": "All processes share this machine's cores, so the median waits until half of them were served:"
        " the floor says how long bare subscribers take here, from just before PUBLISH until the message is read. Ours"
        " begins when `record_result` has returned, and ends with the new table.",
    }
    parts = {each.part for each in rows}
    if parts & {"peers: choosing", "peers: guarding"}:
        from benchmarks.peers import differences

        for name, text in differences.items():
            part = "peers: choosing" if name.startswith("LiteLLM") else "peers: guarding"
            said[part] = f"{said.get(part, '')} {name} {text}".strip()
    if "a delivery of a push: server CPU" in found:
        said["scaling"] = paper(
            found["a command of few outcomes: server CPU"],
            found["a delivery of a push: server CPU"],
            found["a delivery of a push: size"],
        )
    return said


def paper(command: float, delivery: float, size: float) -> str:
    """What a fleet that does not fit this machine would cost, from the figures of one that does."""
    replicas, providers, rate = 10_000, 200, 20
    commands = replicas * rate
    lines = [
        f"On paper, from these figures, for {replicas:,} replicas and {providers} providers, {rate} requests/s each: "
        f"{commands:,} commands/s of one outcome (a replica seldom has two for one of {providers} providers in 0.1 s) "
        f"take {commands * command / 1e6:.1f} cores."
    ]
    for interval in (0.5, 5.0, 30.0):
        deliveries = providers / interval * replicas
        lines.append(
            f"With `push_interval` {interval:g} s, {deliveries:,.0f} deliveries/s take "
            f"{deliveries * delivery / 1e6:.1f} cores and {deliveries * size / 1e6:,.0f} MB/s."
        )
    lines.append(
        "In a cluster commands spread by provider, and subscribers over the nodes, each of which passes every message "
        "on to all others. So: raise `push_interval` first (transitions are pushed at once whatever it is), and move"
        " to a cluster when commands alone take more than half a core, from about"
        f" {0.5e6 / command:,.0f} of them a second."
    )
    return " ".join(lines)


if __name__ == "__main__":
    main()

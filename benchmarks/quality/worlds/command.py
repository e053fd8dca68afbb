"""`python -m benchmarks.quality --worlds 200 --seed S`: random worlds from the command line."""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from benchmarks.quality.worlds.draw import world
from benchmarks.quality.worlds.knowing import ORACLES
from benchmarks.quality.worlds.players import DEFAULT, maker, names
from benchmarks.quality.worlds.report import tables, write
from benchmarks.quality.worlds.score import play
from benchmarks.quality.worlds.timeline import write as write_timeline
from redis_router.testing.server import EmbeddedServer


def is_meant(arguments: Sequence[str]) -> bool:
    """Are random worlds asked for, and not the nine scenarios?"""
    return any(each.partition("=")[0] in ("--worlds", "--world") for each in arguments)


def main(arguments: Sequence[str]) -> int:
    """Play them, print the tables, and write what was asked for."""
    asked = _parser().parse_args(arguments)
    for name in asked.policies or ():
        try:
            maker(name)
        except ValueError as unknown:
            raise SystemExit(str(unknown)) from None
    if asked.world is not None:
        return _again(asked)
    return _all(asked, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description="Random worlds. Seeds 1 to 99 are for development, reports use others.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--worlds", type=int, help="play so many, from the first")
    which.add_argument("--world", type=int, help="play only the one with this number")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policies", nargs="+", help=f"of: {'; '.join(names())}; or any strategy of ours")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--store", choices=("memory", "redis"), default="memory", help="what ours keep state in")
    parser.add_argument("--out", type=Path, help="folder for worlds.md, worlds.json and worlds.png")
    parser.add_argument("--timeline", type=Path, help="with --world: folder for a CSV and a PNG of each policy")
    return parser


def _all(asked: argparse.Namespace, arguments: Sequence[str]) -> int:
    playing, began = asked.policies or names(), time.monotonic()
    jobs = [(asked.seed, number, playing, asked.store) for number in range(1, asked.worlds + 1)]
    with ProcessPoolExecutor(asked.jobs) as pool:
        worlds = []
        for played in pool.map(play, jobs):
            worlds.append(played)
            if sys.stderr.isatty():
                print(f"\r{len(worlds)} of {asked.worlds}", end="", file=sys.stderr, flush=True)
    print(tables(worlds, asked.seed), f"\n{time.monotonic() - began:.0f} s")
    if asked.out is not None:
        command = f"python -m benchmarks.quality {shlex.join(arguments)}"
        write(asked.out, worlds, {"command": command, "commit": commit(), "seed": asked.seed, "worlds": asked.worlds})
    return 0


def _again(asked: argparse.Namespace) -> int:
    shape = world(asked.seed, asked.world)
    print(shape.text())
    for site in shape.sites:
        print(f"  {site}")
    for trouble in shape.troubles:
        print(f"  {trouble}")
    if asked.timeline is not None:
        playing = asked.policies or [DEFAULT, *ORACLES]
        with EmbeddedServer() if asked.store == "redis" else nullcontext() as server:
            for path in write_timeline(asked.timeline, shape, playing, server.url if server else ""):
                print(path)
        return 0
    played = play((asked.seed, asked.world, asked.policies or names(), asked.store))
    for name, row in played.rows.items():
        print(
            f"{name:32} {row.failed:5} of {row.requests} failed, p50 {row.p50:.2f} s, p99 {row.p99:.2f} s {row.shares}"
        )
    return 0


def commit() -> str:
    """What is measured."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()

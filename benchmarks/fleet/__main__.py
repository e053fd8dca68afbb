"""The command: rounds of runs, each policy in turn in each round, then the same in the simulation, and the report."""

import argparse
import importlib.util
import shlex
import sys
import time
from datetime import date
from pathlib import Path

from benchmarks.fleet import report, run, simulated
from benchmarks.fleet.plan import LENGTH, RATE, REPLICAS, SHORTEST, SITES, shape
from benchmarks.fleet.policies import POLICIES
from benchmarks.fleet.processes import prepare
from benchmarks.fleet.score import WHOLE, Scored
from benchmarks.measure import machine
from benchmarks.quality.worlds.command import commit
from benchmarks.quality.worlds.players import DEFAULT, LITELLM

RESULTS = Path(__file__).parents[1] / "results"
OVERHEAD = 5.0
"""Seconds that it takes to start and to end the processes of a run, about."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="for what is measured; as many rounds as fit")
    parser.add_argument("--policies", nargs="+", choices=list(POLICIES), default=list(POLICIES), metavar="POLICY")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for fleet.md and fleet.json")
    arguments = parser.parse_args()
    playing = known(arguments.policies)
    rounds, length = planned(arguments.minutes, len(playing))
    prepare(["benchmarks.fleet.__main__", *(["litellm"] if set(playing) & set(LITELLM) else [])])
    measured: dict[str, list[Scored]] = {policy: [] for policy in playing}
    began = time.monotonic()
    for number in range(1, rounds + 1):
        for policy in playing:
            played = shape(arguments.seed, number, length)
            scored = Scored.of(run.play(policy, played), played)
            measured[policy].append(scored)
            print(f"round {number} of {rounds}, {policy}: {in_short(scored)}", flush=True)
    minutes = (time.monotonic() - began) / 60
    shapes = [shape(arguments.seed, number, length) for number in range(1, rounds + 1)]
    virtual = {policy: [Scored.of(simulated.play(policy, each), each) for each in shapes] for policy in playing}
    about = {
        "commit": f"{commit()}, {date.today().isoformat()}",
        "machine": machine(),
        "command": f"`python -m benchmarks.fleet {shlex.join(sys.argv[1:])}`".replace(" `", "`"),
        "strategy": f"redis_router's default, {DEFAULT}",
        "measured": f"{rounds} round(s) of {length:.0f} s for each policy, {minutes:.0f} minutes",
        "fleet": f"{REPLICAS} gateway processes, {RATE:g} requests/s, {len(SITES)} providers with"
        f" {', '.join(str(each.slots) for each in SITES)} slots; a median call takes"
        f" {', '.join(f'{each.median:g}' for each in SITES)} s",
        "incidents": "; ".join(each.text() for each in shapes[0].troubles),
    }
    report.write(arguments.out, measured, virtual, about)
    print(report.markdown(measured, virtual, about))
    return 0


def known(policies: list[str]) -> list[str]:
    """Those that can be played here; says which cannot."""
    if importlib.util.find_spec("litellm"):
        return policies
    missing = [each for each in policies if each in LITELLM]
    if missing:
        print(f"without {', '.join(missing)}: pip install -e '.[bench]'", flush=True)
    playing = [each for each in policies if each not in missing]
    if not playing:
        raise SystemExit("no policy is left to play")
    return playing


def planned(minutes: float, policies: int) -> tuple[int, float]:
    """How many rounds of runs of how many seconds fit: whole runs, or one round of shorter ones."""
    seconds = minutes * 60 / policies
    rounds = int(seconds / (LENGTH + OVERHEAD))
    return (rounds, LENGTH) if rounds else (1, max(SHORTEST, seconds - OVERHEAD))


def in_short(scored: Scored) -> str:
    """A line for whoever waits."""
    found = scored.figures[WHOLE]
    return (
        f"{found.failed} of {found.requests} failed, p50 {found.p50:.2f} s, p99 {found.p99:.2f} s,"
        f" {found.to_the_dead} calls to the dead"
    )


if __name__ == "__main__":
    sys.exit(main())

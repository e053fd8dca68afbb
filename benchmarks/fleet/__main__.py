"""The command: rounds of runs, each policy in turn in each round, then the same in the simulation, and the report."""

import argparse
import importlib.util
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from benchmarks.fleet import report, run, simulated
from benchmarks.fleet.plan import LENGTH, SHORTEST, shape
from benchmarks.fleet.policies import POLICIES
from benchmarks.fleet.processes import prepare
from benchmarks.fleet.score import WHOLE, Scored
from benchmarks.measure import machine
from benchmarks.quality.worlds.command import commit
from benchmarks.quality.worlds.players import DEFAULT, LITELLM
from benchmarks.quality.worlds.shape import Shape, Site
from redis_router.cli.terminal import EndedBySignals

RESULTS = Path(__file__).parents[1] / "results"
OVERHEAD = 5.0
"""Seconds that it takes to start and to end the processes of a run, about."""


def main() -> int:
    arguments = parser().parse_args()
    playing = known(arguments.policies)
    rounds, length = planned(arguments.minutes, len(playing))
    shapes = [shape(arguments.seed, number, length) for number in range(1, rounds + 1)]
    prepare(["benchmarks.fleet.__main__", *(["litellm"] if set(playing) & set(LITELLM) else [])])
    measured: dict[str, list[Scored]] = {policy: [] for policy in playing}
    virtual: dict[str, list[Scored]] = {policy: [] for policy in playing}
    began = time.monotonic()
    for played in shapes:
        for policy in playing:
            scored = Scored.of(run.play(policy, played), played)
            measured[policy].append(scored)
            print(f"round {played.number} of {rounds}, {policy}: {in_short(scored)}", flush=True)
        for policy in playing:
            virtual[policy].append(Scored.of(simulated.play(policy, played), played))
        said = about(shapes[: played.number], time.monotonic() - began)
        report.write(arguments.out, measured, virtual, said)  # after each round: whoever ends it early has the others
    print("\n" + report.markdown(measured, virtual, said))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    root.add_argument("--minutes", type=float, default=15.0, help="for what is measured; as many rounds as fit")
    root.add_argument("--policies", nargs="+", choices=list(POLICIES), default=list(POLICIES), metavar="POLICY")
    root.add_argument("--seed", type=int, default=1)
    root.add_argument("--out", type=Path, default=RESULTS, help="folder for fleet.md and fleet.json")
    return root


def about(shapes: Sequence[Shape], seconds: float) -> dict[str, str]:
    """What was played, on what, for the heading of the report."""
    one, sites = shapes[0], shapes[0].sites
    slots, medians = (", ".join(f"{value:g}" for value in values) for values in zip(*map(_sizes, sites), strict=True))
    return {
        "commit": f"{commit()}, {date.today().isoformat()}",
        "machine": machine(),
        "command": f"`{shlex.join(['python', '-m', 'benchmarks.fleet', *sys.argv[1:]])}`",
        "redis_router": f"the defaults, which are the strategy {DEFAULT}",
        "measured": f"{len(shapes)} round(s) of {one.length:.0f} s for each policy, {seconds / 60:.0f} minutes",
        "fleet": f"{one.replicas} gateway processes, {one.rate:g} requests/s; {len(sites)} providers, of {slots} slots"
        f" and {medians} s a median call; {one.timeout:g} s until a gateway gives up on a call",
        "incidents": "; ".join(each.text() for each in one.troubles),
    }


def _sizes(site: Site) -> tuple[float, float]:
    return site.slots, site.median


def known(policies: list[str]) -> list[str]:
    """Those that can be played here; says which cannot."""
    if importlib.util.find_spec("litellm"):
        return policies
    missing = [each for each in policies if each in LITELLM]
    if missing:
        print(f"LiteLLM is not installed: without {', '.join(missing)}. pip install -e '.[bench]'", flush=True)
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
    with EndedBySignals():  # through the stack: every process is ended
        sys.exit(main())

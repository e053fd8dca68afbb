"""LiteLLM's Router with its own cooldowns and with the fleet's breaker, through the same four incidents.

    python -m benchmarks.litellm
    python -m benchmarks.litellm --minutes 10

Processes, providers, load and incidents are those of `benchmarks.fleet`. Beside its figures stands when the replicas
stopped calling the provider that is down: the last call of the first burst of each, the latest of all.
"""

import argparse
import importlib.metadata
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from benchmarks.fleet import run
from benchmarks.fleet.__main__ import RESULTS, in_short, planned
from benchmarks.fleet.log import Log
from benchmarks.fleet.plan import shape
from benchmarks.fleet.policies import IN_LITELLM
from benchmarks.fleet.processes import prepare
from benchmarks.fleet.score import WHOLE, Scored
from benchmarks.measure import machine
from benchmarks.quality.worlds.command import commit
from benchmarks.quality.worlds.draw import arrivals
from benchmarks.quality.worlds.shape import Shape
from redis_router.cli.terminal import EndedBySignals

RATE = 20.0
"""Requests a second: half of those of `benchmarks.fleet`, as LiteLLM takes 10 ms of CPU and more for one."""
QUIET = 3.0
"""A replica that sent no call for so many seconds has stopped: a provider gets about one in 1.5 s from each."""


def stopped_after(log: Log, played: Shape) -> float:
    """Seconds from the first incident's begin, in which every call fails, until all replicas stopped calling there."""
    incident = played.troubles[0]
    replicas = [replica for _, replica in arrivals(played)]
    ends = dict[int, float]()
    for call in log.calls:
        if call.provider == incident.provider and call.request >= 0 and incident.begin <= call.at < incident.end:
            replica = replicas[call.request]
            if call.at - ends.get(replica, incident.begin) < QUIET:
                ends[replica] = call.at
    return max(ends.values(), default=incident.begin) - incident.begin


def main() -> int:
    root = argparse.ArgumentParser(prog="python -m benchmarks.litellm", description=__doc__)
    root.add_argument("--minutes", type=float, default=4.0, help="for what is measured; as many rounds as fit")
    root.add_argument("--seed", type=int, default=1)
    root.add_argument("--out", type=Path, default=RESULTS, help="folder for litellm.md")
    arguments = root.parse_args()
    rounds, length = planned(arguments.minutes, len(IN_LITELLM))
    shapes = [replace(shape(arguments.seed, number, length), rate=RATE) for number in range(1, rounds + 1)]
    prepare(["benchmarks.fleet.__main__", "litellm", "redis_router.integrations.litellm"])
    scored: dict[str, list[Scored]] = {policy: [] for policy in IN_LITELLM}
    stopped: dict[str, list[float]] = {policy: [] for policy in IN_LITELLM}
    began = time.monotonic()
    for played in shapes:
        for policy in IN_LITELLM:
            log = run.play(policy, played)
            scored[policy].append(Scored.of(log, played))
            stopped[policy].append(stopped_after(log, played))
            print(f"{policy}: {in_short(scored[policy][-1])}, stopped after {stopped[policy][-1]:.1f} s", flush=True)
    text = markdown(shapes, scored, stopped, time.monotonic() - began)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "litellm.md").write_text(text)
    print("\n" + text)
    return 0


def markdown(
    shapes: Sequence[Shape], scored: dict[str, list[Scored]], stopped: dict[str, list[float]], seconds: float
) -> str:
    """The report: medians over the rounds."""
    one = shapes[0]
    lines = [
        "# LiteLLM's Router: its own cooldowns, and the fleet's breaker",
        "",
        f"- commit: {commit()}, {date.today().isoformat()}",
        f"- machine: {machine()}",
        f"- LiteLLM: {importlib.metadata.version('litellm')}, its defaults, two retries among them, and Redis",
        f"- command: `{shlex.join(['python', '-m', 'benchmarks.litellm', *sys.argv[1:]])}`",
        f"- measured: {len(shapes)} round(s) of {one.length:.0f} s for each, {seconds / 60:.0f} minutes",
        f"- fleet: {one.replicas} gateway processes, {one.rate:g} requests/s, {len(one.sites)} providers",
        f"- incidents: {'; '.join(each.text() for each in one.troubles)}",
        "",
        "Medians over the rounds. Stopped: seconds from the begin of the first incident, in which every call fails,"
        " until the last replica stopped calling there. CPU: of the gateways for a request. Late: how late requests"
        " were sent, the p99 of the worst round; where it is not small beside the p50, the machine was too busy.",
        "",
        "## The whole run",
        "",
        "| LiteLLM with | requests | failed | p50, s | p99, s | calls to the dead | stopped, s | CPU, ms | late, ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for policy, runs in scored.items():
        found = [each.figures[WHOLE] for each in runs]
        cells = [
            f"{statistics.median(each.requests for each in found):.0f}",
            f"{statistics.median(each.failed for each in found):.0f}",
            f"{statistics.median(each.p50 for each in found):.2f}",
            f"{statistics.median(each.p99 for each in found):.2f}",
            f"{statistics.median(each.to_the_dead for each in found):.0f}",
            f"{statistics.median(stopped[policy]):.1f}",
            f"{statistics.median(each.cpu for each in runs):.1f}",
            f"{max(1000 * each.lag for each in runs):.0f}",
        ]
        lines.append(f"| {policy} | {' | '.join(cells)} |")
    lines += ["", "## Each incident", "", "Failed requests, the p99 in s, and calls to the provider concerned.", ""]
    windows = [window for window in next(iter(scored.values()))[0].figures if window != WHOLE]
    lines += [f"| LiteLLM with | {' | '.join(windows)} |", f"|{'---|' * (len(windows) + 1)}"]
    for policy, runs in scored.items():
        cells = []
        for window in windows:
            found = [each.figures[window] for each in runs]
            failed = statistics.median(each.failed for each in found)
            p99, sick = (statistics.median(each.p99 for each in found), statistics.median(e.to_the_sick for e in found))
            cells.append(f"{failed:.0f}, {p99:.2f}, {sick:.0f}")
        lines.append(f"| {policy} | {' | '.join(cells)} |")
    lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    with EndedBySignals():  # through the stack: every process is ended
        sys.exit(main())

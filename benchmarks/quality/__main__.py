"""Plays every scenario under every policy, prints a table for each, and writes them, JSON and charts.

`pip install -e '.[bench]' && python -m benchmarks.quality`, most of an hour on two cores. Each scenario is played with
five seeds, or `--seeds N`, the same for every policy: arrivals and service times are the same draws. `--quick` plays
once, the default and the original alone, and writes nothing. LiteLLM is left out, and named as missing, where it is
not installed. The exit code is 1 where a target was missed.

With `--worlds N --seed S` random worlds are played in place of the scenarios: see `benchmarks.quality.worlds`.
"""

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import quantile
from benchmarks.quality.policies import GUIDE, Oracle, Original, ours
from benchmarks.quality.scenarios import LENGTH, RATE, REPLICAS, SCENARIOS, providers
from benchmarks.quality.world import Make, Run, Scenario, Tally
from benchmarks.quality.worlds import command
from redis_router import RECOMMENDED, CircuitConfig
from redis_router.testing.server import EmbeddedServer

RESULTS = Path(__file__).parents[1] / "results"
ORACLE, ORIGINAL, GUIDED = "oracle", "the original", "p2c, guide"
PEERS = {"LiteLLM simple-shuffle": "simple-shuffle", "LiteLLM latency-based": "latency-based-routing"}
DEFAULT = "adaptive"
"""What a router does that is told nothing: this strategy, with `RECOMMENDED` thresholds."""
TRIPPING = 10
"""Calls that may fail before a circuit opens."""
NOISE = 1.05
"""Two medians that are nearer than this are taken for equal: seeds alone move a p99 by so much."""


@dataclass(frozen=True, slots=True)
class Score:
    """One scenario under one policy: medians over the seeds; p99 with its least and most."""

    scenario: str
    policy: str
    failed_percent: float
    p50: float
    p99: float
    p99_least: float
    p99_most: float
    to_the_dead: float
    to_the_recovering: float
    best_share: float


def policies() -> list[str]:
    """Who plays, in the order of the tables."""
    peers = [*PEERS] if importlib.util.find_spec("litellm") else []
    return [ORACLE, DEFAULT, "p2c", GUIDED, "latency", ORIGINAL, *peers]


def maker(policy: str, url: str) -> Make:
    """The policy of that name; ours work on the server at `url`."""
    if policy == ORACLE:
        return Oracle
    if policy == ORIGINAL:
        return Original
    if policy in PEERS:
        from benchmarks.quality.litellm_peer import litellm_router

        return litellm_router(PEERS[policy])
    if policy == GUIDED:
        return ours(url, "p2c", GUIDE)
    return ours(url, policy, RECOMMENDED if policy == DEFAULT else CircuitConfig())


def play(job: tuple[Scenario, str, int]) -> Tally:
    """One run, in a process of its own, on a server of its own."""
    scenario, policy, seed = job
    with EmbeddedServer() as server:
        return Run(scenario, providers(), REPLICAS, RATE, LENGTH, seed).play(maker(policy, server.url))


def score(scenario: Scenario, policy: str, tallies: Sequence[Tally]) -> Score:
    """What the seeds came to."""

    def median(of: Callable[[Tally], float]) -> float:
        return quantile([of(each) for each in tallies], 0.5)

    p99s = [quantile(each.seconds, 0.99) for each in tallies]
    return Score(
        scenario.name,
        policy,
        median(lambda t: 100 * t.failed / t.requests),
        median(lambda t: quantile(t.seconds, 0.5)),
        quantile(p99s, 0.5),
        min(p99s),
        max(p99s),
        median(lambda t: t.to_the_dead),
        median(lambda t: t.to_the_recovering),
        median(lambda t: max(t.before.values()) / max(1, sum(t.before.values()))),
    )


def verdicts(scores: Sequence[Score]) -> list[tuple[bool, str]]:
    """The targets for the default, each kept or missed."""
    found: list[tuple[bool, str]] = []
    for scenario in dict.fromkeys(each.scenario for each in scores):
        row = {each.policy: each for each in scores if each.scenario == scenario}
        mine, oracle = row[DEFAULT], row[ORACLE]
        tripping = 100 * TRIPPING / (RATE * LENGTH)
        most = 1.2 * oracle.failed_percent + tripping
        found.append((mine.failed_percent <= most, f"{scenario}: {mine.failed_percent:.2f} % failed, ≤ {most:.2f} %"))
        ratio = mine.p99 / oracle.p99
        found.append((ratio <= 1.3, f"{scenario}: p99 {ratio:.2f} times the oracle's, ≤ 1.3"))
        for other in (ORIGINAL, *PEERS):
            if other in row:
                ratio = mine.p99 / row[other].p99
                kept = ratio <= NOISE and mine.failed_percent <= row[other].failed_percent + tripping
                found.append((kept, f"{scenario}: p99 {ratio:.2f} times that of {other}, ≤ {NOISE}"))
    return found


def table(scenario: str, scores: Sequence[Score]) -> str:
    """Markdown for one scenario."""
    lines = [
        f"### {scenario}",
        "",
        "| policy | requests failed | p50, s | p99, s (least to most) | calls to the dead | to the recovering"
        " | share of the best |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in scores:
        if each.scenario == scenario:
            lines.append(
                f"| {each.policy} | {each.failed_percent:.2f} % | {each.p50:.2f} |"
                f" {each.p99:.2f} ({each.p99_least:.2f} to {each.p99_most:.2f}) | {each.to_the_dead:.0f} |"
                f" {each.to_the_recovering:.0f} | {each.best_share:.0%} |"
            )
    return "\n".join(lines)


def charts(folder: Path, scores: Sequence[Score]) -> None:
    """p99 and failures, scenario by scenario."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [ORACLE, DEFAULT, GUIDED, "p2c", "latency", ORIGINAL, *PEERS]
    colours = ["#2c3e50", "#27ae60", "#c0392b", "#e67e22", "#f1c40f", "#95a5a6", "#5dade2", "#1f618d"]
    names = list(dict.fromkeys(each.scenario for each in scores))
    for what, label, name in (
        ("p99", "p99 of a request, s: less is better", "quality-p99"),
        ("failed_percent", "requests that failed, %: less is better", "quality-failures"),
        ("to_the_dead", "calls sent to the provider while it was down", "quality-dead"),
    ):
        figure, axes = plt.subplots(figsize=(11, 3.6), layout="constrained")
        here = [policy for policy in shown if any(each.policy == policy for each in scores)]
        for number, policy in enumerate(here):
            row = {each.scenario: getattr(each, what) for each in scores if each.policy == policy}
            places = [place + (number - len(here) / 2) * 0.8 / len(here) for place in range(len(names))]
            axes.bar(
                places,
                [row[each] for each in names],
                0.8 / len(here),
                label=policy,
                color=colours[number],
                align="edge",
            )
        axes.set_xticks(range(len(names)), names, fontsize=8)
        axes.set_ylabel(label, fontsize=8)
        axes.legend(fontsize=7, ncols=4, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(folder / f"{name}.png", dpi=150)
        plt.close(figure)


def write(folder: Path, scores: Sequence[Score], kept: Sequence[tuple[bool, str]], about: dict[str, Any]) -> None:
    """The tables, the figures and the charts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quality.json").write_text(
        json.dumps({"about": about, "scores": [asdict(each) for each in scores], "targets": kept}, indent=1) + "\n"
    )
    names = list(dict.fromkeys(each.scenario for each in scores))
    text = [
        "# How good the choices are",
        "",
        f"`python -m benchmarks.quality`: {REPLICAS} replicas, {RATE:g} requests/s for {LENGTH:g} s of virtual time,"
        f" three providers of 45 slots; medians over {about['seeds']} seeds. The incident lasts from 40 to 80 s.",
        "A call goes to the dead while the incident makes calls fail for every replica, to the recovering one in the"
        " first 10 s after it. The share of the best is that of the provider with most calls before the incident.",
        "",
        *(part for name in names for part in (table(name, scores), "")),
        f"## Targets for {DEFAULT}, the default",
        "",
        *(f"- {'kept' if is_kept else '**missed**'}: {what}" for is_kept, what in kept),
        "",
    ]
    (folder / "quality.md").write_text("\n".join(text))
    if importlib.util.find_spec("matplotlib"):
        charts(folder, scores)


def main() -> int:
    if command.is_meant(sys.argv[1:]):
        return command.main(sys.argv[1:])
    epilog = "With --worlds N or --world N: random worlds; --worlds 1 --help says more."
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__.partition("\n")[0], epilog=epilog
    )
    parser.add_argument("--quick", action="store_true", help="one seed, for the default and what it is compared with")
    parser.add_argument("--scenario", action="append", choices=[each.name for each in SCENARIOS], help="only this one")
    parser.add_argument("--seeds", type=int, default=5, help="so many, from the first")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    arguments = parser.parse_args()
    scenarios = [each for each in SCENARIOS if not arguments.scenario or each.name in arguments.scenario]
    seeds = list(range(1, 2 if arguments.quick else arguments.seeds + 1))
    playing = [ORACLE, DEFAULT, ORIGINAL] if arguments.quick else policies()
    if not set(PEERS) <= set(playing):
        print("without LiteLLM: " + ("--quick" if arguments.quick else "pip install -e '.[bench]'"))
    jobs = [(scenario, policy, seed) for scenario in scenarios for policy in playing for seed in seeds]
    scores: list[Score] = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        tallies: list[Tally] = []
        for (scenario, policy, seed), tally in zip(jobs, pool.map(play, jobs), strict=True):
            tallies.append(tally)
            if seed == seeds[-1]:
                scores.append(score(scenario, policy, tallies))
                tallies = []
                if policy == playing[-1]:
                    print("\n" + table(scenario.name, scores), flush=True)
    kept = verdicts(scores)
    print("\n" + "\n".join(f"{'kept  ' if is_kept else 'MISSED'} {what}" for is_kept, what in kept))
    if not arguments.quick or arguments.out != RESULTS:
        write(arguments.out, scores, kept, {"seeds": len(seeds), "scenarios": len(scenarios)})
    return 0 if all(is_kept for is_kept, _ in kept) else 1


if __name__ == "__main__":
    raise SystemExit(main())

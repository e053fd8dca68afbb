"""The tables, the figures and the chart of many worlds."""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.quality.worlds.players import OURS
from benchmarks.quality.worlds.score import Played, Spread, Summary, summary, targets, why, worst

COLOURS = ["#c0392b", "#e67e22", "#f1c40f", "#8e44ad", "#7f8c8d", "#1f618d", "#5dade2", "#48c9b0", "#a9cce3", "#2c3e50"]


def players_of(worlds: Sequence[Played]) -> list[str]:
    """Who played, but for the oracle."""
    return list(worlds[0].rows)[1:]


def tables(worlds: Sequence[Played], seed: int) -> str:
    """Markdown: the distributions, who is the best how often, and the worst worlds of ours."""
    found = {name: summary(worlds, name) for name in players_of(worlds)}
    ours = [name for name in OURS if name in found][:1]
    parts = [_spreads(found), _parts(found)]
    for name in ours:
        parts += [_targets(found[name], name), _worst(worlds, seed, name)]
    return "\n\n".join(parts)


def _targets(found: Summary, name: str) -> str:
    kept = [f"- {'kept' if is_kept else '**missed**'}: {what}" for is_kept, what in targets(found)]
    return "\n".join([f"Targets for {name} with default settings:", "", *kept])


def _spreads(found: Mapping[str, Summary]) -> str:
    def cell(each: Spread, digits: int) -> str:
        return " / ".join(f"{value:.{digits}f}" for value in (each.median, each.p90, each.p99, each.worst))

    lines = [
        "Median / 90th / 99th percentile / worst over the worlds; p99 and p50 of a request as multiples of the"
        " oracle's, failed requests in percent points above the oracle's.",
        "",
        "| policy | p99 | p50 | failed | failed, mean |",
        "|---|---|---|---|---|",
    ]
    for name, each in found.items():
        lines.append(
            f"| {name} | {cell(each.p99, 2)} | {cell(each.p50, 2)} | {cell(each.failed, 2)} | {each.failed.mean:.3f} |"
        )
    return "\n".join(lines)


def _parts(found: Mapping[str, Summary]) -> str:
    lines = [
        "Parts of the worlds. Best: the lowest p99, or within 5 %, of those with the fewest failures. Not worse: p99"
        " within 5 %, and failures within the ten that trip a circuit. Beats the oracle: in p99 by 5 %, or in failures;"
        " and in p50 by 5 %.",
        "",
        "| policy | best | not worse than the original and LiteLLM | than Envoy | beats the oracle"
        " | in p50 | calls to the dead: median / 90th / worst |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in found.items():
        dead = each.to_the_dead
        lines.append(
            f"| {name} | {each.best:.0%} | {each.not_worse:.0%} | {each.not_worse_than_envoy:.0%} |"
            f" {each.beats_oracle:.0%} | {each.beats_p50:.0%} | {dead.median:.0f} / {dead.p90:.0f} / {dead.worst:.0f} |"
        )
    return "\n".join(lines)


def _worst(worlds: Sequence[Played], seed: int, name: str) -> str:
    lines = [f"The worst worlds for {name}:", ""]
    for each in worst(worlds, name):
        lines.append(f"- world {each.number}: {each.text}. Here {why(each, seed, name)}.")
    return "\n".join(lines)


def write(folder: Path, worlds: Sequence[Played], about: Mapping[str, Any]) -> None:
    """worlds.md, worlds.json and worlds.png."""
    folder.mkdir(parents=True, exist_ok=True)
    head = f"# {len(worlds)} random worlds\n\n`{about['command']}`, commit {about['commit']}, seed {about['seed']}.\n\n"
    chart = "\n\n![p99 over the oracle's, world by world](worlds.png)\n"
    (folder / "worlds.md").write_text(head + tables(worlds, about["seed"]) + chart)
    figures = {name: asdict(summary(worlds, name)) for name in players_of(worlds)}
    rows = [json.dumps(_in_short(each)) for each in worlds]
    text = json.dumps({"about": about, "summary": figures}, indent=1)[:-2] + ',\n "worlds": [\n  '
    (folder / "worlds.json").write_text(text + ",\n  ".join(rows) + "\n ]\n}\n")
    if importlib.util.find_spec("matplotlib"):
        chart_of(folder / "worlds.png", worlds)


def _in_short(played: Played) -> dict[str, Any]:
    rows = {
        name: {"failed": row.failed, "p50": row.p50, "p99": row.p99, "to_the_dead": row.to_the_dead}
        for name, row in played.rows.items()
    }
    requests = next(iter(played.rows.values())).requests
    return {"world": played.number, "requests": requests, "what": played.text, "policies": rows}


def chart_of(path: Path, worlds: Sequence[Played]) -> None:
    """Each player's worlds in order: how many are below which p99, and below which failures."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for number, name in enumerate(players_of(worlds)):
        over = [each.over(name) for each in worlds]
        parts = [100 * (place + 1) / len(over) for place in range(len(over))]
        style = {"color": COLOURS[number % len(COLOURS)], "lw": 2.2 if name in OURS else 1.2, "label": name}
        left.plot(parts, sorted(each.p99 for each in over), **style)
        right.plot(parts, sorted(max(0.01, each.failed) for each in over), **style)
    left.set(yscale="log", ylabel="p99 of a request, times the oracle's: less is better")
    right.set(yscale="log", ylabel="requests failed above the oracle's, percent points")
    for axes in (left, right):
        axes.set_xlabel("% of the worlds that are at least so good")
        axes.spines[["top", "right"]].set_visible(False)
    left.set_yticks([1, 1.5, 2, 3, 5, 10, 20], ["1", "1.5", "2", "3", "5", "10", "20"])
    left.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)

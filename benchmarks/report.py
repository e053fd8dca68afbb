"""Rows -> a table in Markdown, the same as JSON, and charts."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.measure import Row

TITLES = {
    "select": "Choosing a provider: `select_provider`",
    "table": "A new table when one record changed",
    "attempt": "A whole attempt",
    "threads": "Several threads on one router",
    "peers: choosing": "Beside LiteLLM's Router",
    "peers: guarding": "Beside other breakers with Redis",
    "commands": "Redis commands",
    "background": "The engine: CPU beside the requests",
    "propagation": "Until every replica knows",
    "server": "The Redis server",
    "scaling": "How the server scales with the fleet",
    "memory": "Memory",
    "import": "Importing",
}


def write(folder: Path, rows: Sequence[Row], about: Mapping[str, str], remarks: Mapping[str, Sequence[str]]) -> Path:
    """`benchmark.md`, `benchmark.json` and the charts; returns the first."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {**about, "remarks": remarks, "rows": [asdict(each) for each in rows]}
    (folder / "benchmark.json").write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    path = folder / "benchmark.md"
    path.write_text(markdown(rows, about, remarks))
    charts(folder, rows)
    return path


def markdown(rows: Sequence[Row], about: Mapping[str, str], remarks: Mapping[str, Sequence[str]]) -> str:
    """The report; a bound that was missed is bold."""
    lines = ["# Benchmark", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    lines += ["Medians, with quartiles in brackets where there are several samples. Bold: a bound that was missed.", ""]
    for part, found in groupby(rows, key=lambda each: each.part):
        lines += [f"## {TITLES.get(part, part)}", "", "| what | median | bound |", "|---|---|---|"]
        for each in found:
            spread = f" ({number(each.low)} to {number(each.high)}, {each.samples})" if each.samples > 1 else ""
            target = f"**{each.target or 'missed'}**" if each.met is False else each.target
            note = f" ({each.note})" if each.note else ""
            lines.append(f"| {each.what}{note} | {number(each.median)} {each.unit}{spread} | {target} |")
        lines += ["", *(f"- {remark}" for remark in remarks.get(part, ())), ""]
    return "\n".join(lines)


def number(value: float) -> str:
    """Three digits, and no more zeros than needed."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def charts(folder: Path, rows: Sequence[Row]) -> None:
    """Peers, and scaling: one PNG each, where their rows are there."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    for part, name in (("peers: choosing", "choosing"), ("peers: guarding", "guarding")):
        found = [each for each in rows if each.part == part and each.unit == "µs" and "2 cores" not in each.what]
        if found:
            _bars(plt, folder / f"{name}.png", found)
    fleets = [each for each in rows if each.part == "scaling" and each.what.split()[1].startswith("replica")]
    if len({each.what.split()[0] for each in fleets}) > 2:
        figure, panels = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
        wanted = ("server CPU", "pushed", "a transition, until it is at a replica: p50")
        for panel, name in zip(panels, wanted, strict=True):
            found = [each for each in fleets if each.what.endswith(f": {name}")]
            sizes = [int(each.what.split()[0].replace(",", "")) for each in found]
            panel.plot(sizes, [each.median for each in found], "o-", color="#c0392b")
            panel.set(xscale="log", yscale="log", xlabel="replicas", ylabel=found[0].unit)
            panel.set_title(name, fontsize=9)
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_major_formatter(lambda value, _: number(value))
            panel.yaxis.set_minor_formatter("")
            panel.grid(alpha=0.3)
        figure.savefig(folder / "scaling.png", dpi=150)
        plt.close(figure)


def _bars(plt: Any, path: Path, rows: Sequence[Row]) -> None:
    figure, axes = plt.subplots(figsize=(9, 0.6 + 0.34 * len(rows)), layout="constrained")
    names, values = [each.what for each in reversed(rows)], [each.median for each in reversed(rows)]
    colours = ["#c0392b" if name.startswith("redis_router") else "#7f8c8d" for name in names]
    bars = axes.barh(names, values, color=colours)
    axes.bar_label(bars, [f" {number(value)} µs" for value in values], fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(right=max(values) * 6)
    axes.set_xlabel("µs per call, logarithmic: less is better")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)

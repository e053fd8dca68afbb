"""The tables and the figures of all rounds: what was measured, and the simulation beside it."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.fleet.score import WHOLE, Figures, Scored, over

Runs = Mapping[str, Sequence[Scored]]
"""By policy, round by round."""


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a table."""

    title: str
    of: Callable[[Figures], float]
    digits: int


FAILED = Column("failed", lambda each: each.failed, 0)
P50 = Column("p50, s", lambda each: each.p50, 2)
P99 = Column("p99, s", lambda each: each.p99, 2)
SICK = Column("calls to the sick", lambda each: each.to_the_sick, 0)
DEAD = Column("calls to the dead", lambda each: each.to_the_dead, 0)
COLUMNS = (Column("requests", lambda each: each.requests, 0), FAILED, P50, P99, SICK)


def markdown(measured: Runs, simulated: Runs, about: Mapping[str, str]) -> str:
    """The report."""
    windows = list(next(iter(measured.values()))[0].figures)
    parts = ["# One fleet, measured and simulated", "\n".join(f"- {name}: {value}" for name, value in about.items())]
    parts += [
        "Medians over the rounds, with the least and the most. Seconds run from the moment that a request was due; it"
        " failed where its user saw it fail. Calls to the sick go to a provider during its incident, those to the dead"
        " while every call to it fails."
    ]
    parts += ["## Measured"]
    for window in windows:
        shown = (*COLUMNS, DEAD) if window == WHOLE else COLUMNS
        parts += [f"### {window[0].upper()}{window[1:]}", _table(measured, window, shown)]
    parts += [
        "## Measured beside simulated",
        "Medians: measured, simulated, and how many times the one is the other. The simulation has no CPU, no network"
        " and no HTTP clients; its LiteLLM shares nothing through Redis.",
    ]
    for window in windows:
        compared = (FAILED, P50, P99, SICK)
        parts += [f"### {window[0].upper()}{window[1:]}, beside", _beside(measured, simulated, window, compared)]
    parts += ["## The machine", _machine(measured)]
    return "\n\n".join(parts) + "\n"


def _table(runs: Runs, window: str, columns: Sequence[Column]) -> str:
    def rows() -> Iterator[str]:
        for policy, scored in runs.items():
            cells = [over(scored, window, each.of).text(each.digits) for each in columns]
            yield f"| {policy} | {' | '.join(cells)} |"

    return "\n".join([_head(each.title for each in columns), *rows()])


def _beside(measured: Runs, simulated: Runs, window: str, columns: Sequence[Column]) -> str:
    def rows() -> Iterator[str]:
        for policy in measured:
            cells = []
            for each in columns:
                real = over(measured[policy], window, each.of).median
                virtual = over(simulated[policy], window, each.of).median
                ratio = f"{real / virtual:.2f}" if virtual else "-"
                cells.append(f"{real:.{each.digits}f} / {virtual:.{each.digits}f} = {ratio}")
            yield f"| {policy} | {' | '.join(cells)} |"

    return "\n".join([_head(each.title for each in columns), *rows()])


def _head(titles: Iterable[str]) -> str:
    named = ["policy", *titles]
    return f"| {' | '.join(named)} |\n|{'---|' * len(named)}"


def _machine(runs: Runs) -> str:
    lines = [
        "CPU of the gateways for a request, and how late requests were sent, the p99 of each round, both in ms. Where"
        " the latter is not small beside the p50 of the requests, the machine was too busy to measure.",
        "",
        _head(("CPU", "late")),
    ]
    for policy, scored in runs.items():
        cpu, lag = (", ".join(f"{value:.1f}" for value in values) for values in zip(*map(_costs, scored), strict=True))
        lines.append(f"| {policy} | {cpu} | {lag} |")
    return "\n".join(lines)


def _costs(scored: Scored) -> tuple[float, float]:
    return scored.cpu, 1000 * scored.lag


def write(folder: Path, measured: Runs, simulated: Runs, about: Mapping[str, str]) -> None:
    """fleet.md and fleet.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fleet.md").write_text(markdown(measured, simulated, about))
    said = {"about": about, "measured": _plain(measured), "simulated": _plain(simulated)}
    (folder / "fleet.json").write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")


def _plain(runs: Runs) -> dict[str, list[Any]]:
    return {policy: [asdict(each) for each in scored] for policy, scored in runs.items()}

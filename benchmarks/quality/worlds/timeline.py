"""One world again, second by second: who got which calls, how long they took, and what was thought of each provider."""

import csv
import importlib.util
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import quantile
from benchmarks.quality.worlds.ground import Call, Ground
from benchmarks.quality.worlds.players import maker
from benchmarks.quality.worlds.shape import Shape

STEPS = 240
"""Into so many pieces a world is cut."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One provider in one step: `share` of the calls that ended, seconds of those that went well, the state after."""

    second: float
    provider: str
    calls: int
    share: float
    failed: int
    p50: float
    p99: float
    busy: int
    waiting: int
    slots: int
    state: str


def moments(shape: Shape, policy: str, url: str = "") -> list[Moment]:
    """Play the world under one policy, and look at it at every step."""
    ended: defaultdict[str, list[Call]] = defaultdict(list)
    found: list[Moment] = []
    ground = Ground(shape, lambda call: ended[call.provider].append(call))

    def look(second: float) -> None:
        states, total = ground.player.states(), sum(map(len, ended.values()))
        for name, live in ground.all.items():
            calls = ended.pop(name, [])
            good = [call.seconds for call in calls if call.status == 200]
            p50, p99 = (round(quantile(good, part), 4) if good else 0.0 for part in (0.5, 0.99))
            share = round(len(calls) / total, 4) if total else 0.0
            bad = len(calls) - len(good)
            queue = live.busy, len(live.waiting), live.slots
            found.append(Moment(round(second, 2), name, len(calls), share, bad, p50, p99, *queue, states.get(name, "")))

    for step in range(1, STEPS + 1):
        second = shape.length * step / STEPS
        ground.world.after(second, partial(look, second))
    ground.play(maker(policy, url))
    return found


def write(folder: Path, shape: Shape, policies: Sequence[str], url: str = "") -> list[Path]:
    """A CSV and, where matplotlib is there, a PNG for each policy."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for policy in policies:
        found = moments(shape, policy, url)
        path = folder / f"world-{shape.seed}-{shape.number}-{policy.replace(', ', '-').replace(' ', '-')}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([field.name for field in fields(Moment)])
            writer.writerows(map(astuple, found))
        written.append(path)
        if importlib.util.find_spec("matplotlib"):
            written.append(_picture(path.with_suffix(".png"), shape, policy, found))
    return written


def _picture(path: Path, shape: Shape, policy: str, found: Sequence[Moment]) -> Path:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (shares, times, states) = plt.subplots(3, 1, figsize=(12, 9), sharex=True, layout="constrained")
    names = [site.name for site in shape.sites]
    of = {name: [each for each in found if each.provider == name] for name in names}
    seconds = [each.second for each in of[names[0]]]
    colours: list[Any] = [plt.get_cmap("tab20")(number) for number in range(len(names))]
    labels = [f"{site.name}: {site.median:.2f} s, {site.slots} slots" for site in shape.sites]
    shares.stackplot(seconds, [[each.share for each in of[name]] for name in names], labels=labels, colors=colours)
    for number, name in enumerate(names):
        times.plot(seconds, [each.p50 or None for each in of[name]], color=colours[number], lw=1)
        bad = [each for each in of[name] if each.state]
        states.plot([each.second for each in bad], [number] * len(bad), "|", color=colours[number], ms=9)
        failed = [each for each in of[name] if each.failed]
        states.plot([each.second for each in failed], [number + 0.3] * len(failed), "rx", ms=3)
    for trouble in shape.troubles:
        for axes in (shares, times, states):
            axes.axvspan(trouble.begin, min(trouble.end, shape.length), color="#c0392b", alpha=0.08)
    shares.set(ylabel="share of the calls", ylim=(0, 1))
    times.set(ylabel="median of a step, s", yscale="log")
    states.set(yticks=range(len(names)), yticklabels=names, ylabel="| not in service   x calls failed", xlabel="s")
    states.set_ylim(-0.5, len(names) - 0.5)
    shares.legend(fontsize=7, ncols=4, loc="upper left")
    figure.suptitle(f"{policy}, world {shape.number} of seed {shape.seed}: {shape.text()}", fontsize=8, wrap=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path

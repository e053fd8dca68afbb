"""What worlds came to: each player against the oracle, world by world, and the distribution over worlds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measure import quantile
from benchmarks.quality.worlds.draw import world
from benchmarks.quality.worlds.ground import Ground, Tally
from benchmarks.quality.worlds.knowing import ORACLES
from benchmarks.quality.worlds.players import ENVOY, LITELLM, ORACLE, ORIGINAL, maker
from benchmarks.quality.worlds.shape import Shape
from redis_router.testing.server import EmbeddedServer

NOISE = 1.05
"""Two p99s that are nearer than this are taken for equal."""
TRIPPING = 10
"""So many more failed requests are what it takes to trip a circuit: they make nobody worse."""
PEERS = (ORIGINAL, *LITELLM)
"""Whoever takes ours shall not be worse off than with one of these."""
BOUNDS = 2.5, 0.5
"""The worst that is wanted: a p99 over the oracle's, and failed requests above the oracle's in percent points."""


@dataclass(frozen=True, slots=True)
class Row:
    """One world under one player; seconds. `shares` of the calls by provider, `statuses` of the calls by status."""

    requests: int
    failed: int
    p50: float
    p99: float
    to_the_dead: int
    shares: Mapping[str, float]
    statuses: Mapping[int, int]

    @classmethod
    def of(cls, tally: Tally) -> "Row":
        calls = max(1, sum(tally.calls.values()))
        return cls(
            tally.requests,
            tally.failed,
            round(quantile(tally.seconds, 0.5), 4),
            round(quantile(tally.seconds, 0.99), 4),
            tally.to_the_dead,
            {name: round(number / calls, 4) for name, number in sorted(tally.calls.items())},
            dict(sorted(tally.statuses.items())),
        )

    @property
    def failed_percent(self) -> float:
        return 100 * self.failed / max(1, self.requests)


@dataclass(frozen=True, slots=True)
class Played:
    """One world under everybody; the oracle is the best of the oracles, for each figure."""

    number: int
    text: str
    rows: Mapping[str, Row]

    def over(self, name: str) -> "Over":
        """A player against the oracle."""
        row, best = self.rows[name], self.rows[ORACLE]
        return Over(row.p50 / best.p50, row.p99 / best.p99, row.failed_percent - best.failed_percent)

    def is_not_worse(self, name: str, than: str) -> bool:
        """Within `NOISE` in p99, and within `TRIPPING` in failed requests."""
        mine, other = self.rows[name], self.rows[than]
        return mine.p99 <= NOISE * other.p99 and mine.failed <= other.failed + TRIPPING

    def best(self, names: Sequence[str]) -> set[str]:
        """Those with the lowest p99 of all that fail hardly more than the fewest, or within 5 % of it."""
        fewest = min(self.rows[name].failed for name in names)
        fit = [name for name in names if self.rows[name].failed <= fewest + TRIPPING]
        lowest = min(self.rows[name].p99 for name in fit)
        return {name for name in fit if self.rows[name].p99 <= NOISE * lowest}


@dataclass(frozen=True, slots=True)
class Over:
    """Multiples of the oracle's p50 and p99, and percent points of failed requests above it."""

    p50: float
    p99: float
    failed: float

    @property
    def badness(self) -> float:
        """How far from the worst that is wanted: above 1 is beyond it."""
        return max(self.p99 / BOUNDS[0], self.failed / BOUNDS[1])


@dataclass(frozen=True, slots=True)
class Spread:
    """Over worlds."""

    median: float
    p90: float
    p99: float
    worst: float
    mean: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        found = list(values)
        median, p90, p99 = (quantile(found, part) for part in (0.5, 0.9, 0.99))
        return cls(median, p90, p99, max(found), sum(found) / len(found))


@dataclass(frozen=True, slots=True)
class Summary:
    """One player over all worlds; parts from 0 to 1.

    best          of the worlds where it is the best, or within 5 %
    not_worse     of the worlds where it is not worse than the original nor any of LiteLLM's
    beats_oracle  of the worlds where its p99 is below the oracle's by more than 5 %, or it fails fewer
    beats_p50     of the worlds where its p50 is; the oracles keep the tail low, which may cost the median
    to_the_dead   calls to a provider that fails all of them, a world
    """

    p50: Spread
    p99: Spread
    failed: Spread
    best: float
    not_worse: float
    not_worse_than_envoy: float
    beats_oracle: float
    beats_p50: float
    to_the_dead: Spread


def play(job: tuple[int, int, Sequence[str], str]) -> Played:
    """One world of a seed under these players and all oracles, in a process of its own."""
    seed, number, names, store = job
    shape = world(seed, number)
    if store == "redis":
        with EmbeddedServer() as server:
            return _play(shape, names, server.url)
    return _play(shape, names, "")


def _play(shape: Shape, names: Sequence[str], url: str) -> Played:
    oracles = {name: Row.of(Ground(shape).play(maker(name))) for name in ORACLES}
    rows = {ORACLE: best_of(list(oracles.values()))}
    rows |= {name: Row.of(Ground(shape).play(maker(name, url))) for name in names}
    return Played(shape.number, shape.text(), rows)


def best_of(oracles: Sequence[Row]) -> Row:
    """Each figure of the oracle that has the best; the shares are of the one with the best p99."""
    by_tail = min(oracles, key=lambda row: (row.failed, row.p99))
    return Row(
        by_tail.requests,
        by_tail.failed,
        min(row.p50 for row in oracles),
        by_tail.p99,
        by_tail.to_the_dead,
        by_tail.shares,
        by_tail.statuses,
    )


def summary(worlds: Sequence[Played], name: str) -> Summary:
    """One player over all worlds."""

    def part(of: Callable[[Played], bool]) -> float:
        return sum(map(of, worlds)) / len(worlds)

    names = [each for each in worlds[0].rows if each != ORACLE]
    peers = [each for each in PEERS if each in names and each != name]
    over = [each.over(name) for each in worlds]
    return Summary(
        Spread.of(each.p50 for each in over),
        Spread.of(each.p99 for each in over),
        Spread.of(each.failed for each in over),
        part(lambda each: name in each.best(names)),
        part(lambda each: all(each.is_not_worse(name, peer) for peer in peers)),
        part(lambda each: ENVOY not in names or each.is_not_worse(name, ENVOY)),
        sum(each.failed < 0 or (each.failed == 0 and each.p99 < 1 / NOISE) for each in over) / len(over),
        sum(each.failed == 0 and each.p50 < 1 / NOISE for each in over) / len(over),
        Spread.of(float(each.rows[name].to_the_dead) for each in worlds),
    )


def targets(found: Summary) -> list[tuple[bool, str]]:
    """What the default strategy with default settings should keep, and whether it does."""
    wanted = (
        ("p99 over the oracle's, median", found.p99.median, 1.2),
        ("p99 over the oracle's, 90th percentile", found.p99.p90, 1.6),
        ("p99 over the oracle's, worst", found.p99.worst, 2.5),
        ("p50 over the oracle's, median", found.p50.median, 1.1),
        ("failed requests above the oracle's, mean, in percent points", found.failed.mean, 0.02),
        ("failed requests above the oracle's, worst, in percent points", found.failed.worst, 0.5),
        ("worlds in which it is worse than the original or one of LiteLLM's, %", 100 * (1 - found.not_worse), 3.0),
    )
    return [(value <= most, f"{what}: {value:.2f}, ≤ {most:g}") for what, value, most in wanted]


def worst(worlds: Sequence[Played], name: str, number: int = 5) -> list[Played]:
    """Where this player is the farthest from the oracle."""
    return sorted(worlds, key=lambda each: each.over(name).badness, reverse=True)[:number]


def why(played: Played, seed: int, name: str) -> str:
    """What went wrong there, in a line, as far as figures say it."""
    mine, best, shape = played.rows[name], played.rows[ORACLE], world(seed, played.number)
    over, fastest = played.over(name), min(site.median for site in shape.sites)
    said = [f"p99 {mine.p99:.1f} s, {over.p99:.2f} times the oracle's"]
    if mine.failed > best.failed:
        said.append(f"{mine.failed} of {mine.requests} failed, the oracle's {best.failed}")
    odd = {code: many for code, many in mine.statuses.items() if code != 200 and many > 0.005 * mine.requests}
    said += [f"{many} calls ended with {code or 'a time-out'}" for code, many in odd.items()]
    more = {site: mine.shares.get(site.name, 0.0) - best.shares.get(site.name, 0.0) for site in shape.sites}
    most, least = max(more, key=lambda site: more[site]), min(more, key=lambda site: more[site])
    said += [
        f"{site.name} ({site.median / fastest:.1f} times the fastest's median) got {mine.shares.get(site.name, 0):.0%}"
        f" of the calls, the oracle's {best.shares.get(site.name, 0):.0%}"
        for site in (most, least)
    ]
    return "; ".join(said)

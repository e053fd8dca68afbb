"""A provider at work, and one call at it."""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.quality.world import Answer, World
from benchmarks.quality.worlds.shape import Site, Trouble

QUICKLY = 0.02
"""Seconds until a provider refuses a call."""
MOST_WAITING = 200


@dataclass
class Live:
    """A provider at work; `troubles` are those of its own."""

    site: Site
    world: World
    all_troubles: Sequence[Trouble]
    slots: int
    busy: int = 0
    weight: float = 1.0
    tokens: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By limit: how many are left, and when that was."""
    waiting: deque[Callable[[], None]] = field(default_factory=deque)

    @property
    def name(self) -> str:
        return self.site.name

    def troubles(self, replica: int | None) -> list[Trouble]:
        """What goes on now, as this replica sees it; None: what all see."""
        now = self.world.now
        return [each for each in self.all_troubles if each.hits(now, replica)]

    def slowdown(self, replica: int | None) -> float:
        """How many times as long an answer takes that is begun now, with the strain of the others."""
        times = 1.0
        for each in self.troubles(replica):
            times *= each.times(self.world.now)
        return times * (1 + self.site.strain * min(1.0, self.busy / self.slots))

    def shrink(self, part: float) -> None:
        """To this part of its slots."""
        self.slots = max(1, round(self.slots * part))

    # Rate limits

    def limits(self) -> list[tuple[str, float, float, float | None]]:
        """Those in force: a name, requests a second, seconds of burst, and what the 429 says."""
        site, found = self.site, []
        if site.limit is not None:
            found.append(("own", site.limit, site.limit_window, site.retry_after))
        for number, each in enumerate(self.all_troubles):
            if each.limit is not None and each.hits(self.world.now, None):
                found.append((f"incident {number}", each.limit, 1.0, each.retry_after))
        return found

    def refuses(self) -> Answer | None:
        """The 429 that a call gets now, None where no limit refuses it."""
        for key, rate, window, says in self.limits():
            if self._tokens_left(key, rate, window) < 1:
                return Answer(429, says)
        return None

    def spend(self) -> None:
        """Of every limit, a request."""
        for key, *_ in self.limits():
            left, at = self.tokens[key]
            self.tokens[key] = left - 1, at

    def _tokens_left(self, key: str, rate: float, window: float) -> float:
        most, now = max(1.0, rate * window), self.world.now
        left, at = self.tokens.get(key, (most, now))
        left = min(most, left + (now - at) * rate)
        self.tokens[key] = left, now
        return left


class Served:
    """One call at one provider."""

    def __init__(
        self,
        live: Live,
        replica: int,
        draw: random.Random,
        stream: float,
        timeout: float,
        begins: Callable[[], None],
        answered: Callable[[Answer, float], None],
    ) -> None:
        self._live, self._replica, self._world = live, replica, live.world
        self._wanted = draw.lognormvariate(0.0, live.site.sigma) * live.site.median
        self._draw, self._stream, self._timeout = draw, stream, timeout
        self._begins, self._answered = begins, answered
        self._sent = live.world.now
        self._over = self._serving = False

    def begin(self) -> None:
        """Refused, failed, served, or put into the queue."""
        live, after = self._live, self._world.after
        refusal = live.refuses()
        if refusal is not None:
            after(QUICKLY, partial(self._fail, refusal))
            return
        live.spend()
        for each in live.troubles(self._replica):
            if self._draw.random() < each.chance:
                hangs = each.status == 0 or each.after >= self._timeout
                after(self._timeout if hangs else each.after, partial(self._fail, Answer(0 if hangs else each.status)))
                return
        if len(live.waiting) >= MOST_WAITING:
            after(QUICKLY, partial(self._fail, Answer(503)))
            return
        after(self._timeout, self.give_up)
        if live.busy < live.slots:
            self._serve()
        else:
            live.waiting.append(self._serve)

    def _serve(self) -> None:
        if self._over:
            return
        self._serving = True
        self._live.busy += 1
        self._world.after(self._wanted * self._live.slowdown(self._replica), self._first_token)

    def _first_token(self) -> None:
        if self._over:
            return
        self._over = True
        seconds = self._world.now - self._sent
        self._begins()
        if self._stream:
            self._world.after(self._stream, partial(self._end, seconds))
        else:
            self._end(seconds)

    def _end(self, seconds: float) -> None:
        self._leave()
        self._answered(Answer(200), seconds)

    def give_up(self) -> None:
        """Whoever called waits no longer."""
        if not self._over:
            self._over = True
            self._leave()
            self._fail(Answer(0))

    def _leave(self) -> None:
        if self._serving:
            self._live.busy -= 1
            while self._live.waiting and self._live.busy < self._live.slots:
                self._live.waiting.popleft()()

    def _fail(self, answer: Answer) -> None:
        self._answered(answer, self._world.now - self._sent)

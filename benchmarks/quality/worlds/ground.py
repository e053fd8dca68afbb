"""One world in virtual time: requests come, providers answer, incidents come and go."""

import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from benchmarks.quality.world import Answer, World
from benchmarks.quality.worlds.draw import arrivals
from benchmarks.quality.worlds.providers import Live, Served
from benchmarks.quality.worlds.shape import Shape, Trouble

DRAINED_BEFORE = 8.0
"""Seconds from the operator's word until the provider is switched off."""
SWITCHED_OFF = "drain"


class Request(Protocol):
    """One request under a policy."""

    def next(self) -> str | None:
        """The provider to call now; None where the request failed for good."""

    @property
    def timeout(self) -> float:
        """Seconds until the first token, for the call that `next` asked for."""

    def first_token(self) -> None:
        """The answer of that call begins."""

    def ended(self, answer: Answer, seconds: float) -> None:
        """How that call went; `seconds` until the first token, or until it failed."""


class Player(Protocol):
    """Who chooses, in every replica."""

    def begin(self, replica: int) -> Request: ...

    def restart(self, replica: int) -> None:
        """It begins anew, without memory of its own."""

    def add(self, name: str) -> None:
        """A provider is new."""

    def drain(self, name: str) -> None:
        """An operator takes a provider out of service."""

    def states(self) -> dict[str, str]:
        """For the timeline: a word for each provider, '' where all is well."""

    def close(self) -> None:
        """The world is over."""


@dataclass
class Call:
    """For the timeline: one call that is over."""

    at: float
    provider: str
    status: int
    seconds: float


@dataclass
class Tally:
    """What one run came to; `seconds` of each request until its first token, or until it failed for good."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    requests: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    to_the_dead: int = 0
    statuses: Counter[int] = field(default_factory=Counter)


class Ground:
    """One world under one policy. `watch` sees every call that ends."""

    def __init__(self, shape: Shape, watch: Callable[[Call], None] | None = None) -> None:
        self.world = World()
        self.shape = shape
        self.replicas = shape.replicas
        self.seed = f"{shape.seed} {shape.number} policy"
        late = {t.provider for t in shape.troubles if t.kind == "new provider"}
        by_name = {site.name: [t for t in shape.troubles if t.provider == site.name] for site in shape.sites}
        self.all = {site.name: Live(site, self.world, by_name[site.name], site.slots) for site in shape.sites}
        self.providers = {name: live for name, live in self.all.items() if name not in late}
        """Those that policies know; the drained ones too."""
        self.drained: set[str] = set()
        self.tally = Tally()
        self._watch = watch

    def play(self, make: Callable[["Ground"], Player]) -> Tally:
        """Until the last request is over. The global stream, which strategies draw from, is seeded."""
        random.seed(self.seed)
        self.player = make(self)
        for trouble in self.shape.troubles:
            self._plan(trouble)
        self._arrive(deque(enumerate(arrivals(self.shape))))
        self.world.run(self.shape.length + self.shape.patience + 10 * self.shape.stream_mean + 1.0)
        self.player.close()
        return self.tally

    # Incidents that people make, or that change a provider for good

    def _plan(self, trouble: Trouble) -> None:
        after, begin, replicas = self.world.after, trouble.begin, range(self.replicas)
        if trouble.kind == "restart of all":
            after(begin, lambda: self._restart(replicas))
        elif trouble.kind == "deploys one by one":
            for replica in replicas:
                after(begin + (trouble.end - begin) * replica / len(replicas), partial(self._restart, [replica]))
        elif trouble.kind == "new provider":
            after(begin, lambda: self._add(trouble.provider))
        elif trouble.kind == SWITCHED_OFF:
            after(max(0.0, begin - DRAINED_BEFORE), lambda: self._drain(trouble.provider))
        elif trouble.slots_after != 1.0:
            after(trouble.end, lambda: self.all[trouble.provider].shrink(trouble.slots_after))

    def _restart(self, replicas: Iterable[int]) -> None:
        for replica in replicas:
            self.player.restart(replica)

    def _add(self, name: str) -> None:
        self.providers[name] = self.all[name]
        self.player.add(name)

    def _drain(self, name: str) -> None:
        self.drained.add(name)
        self.player.drain(name)

    # Requests

    def _arrive(self, coming: deque[tuple[int, tuple[float, int]]]) -> None:
        if not coming:
            return
        number, (at, replica) = coming.popleft()

        def arrive() -> None:
            self.tally.requests += 1
            self._try(number, replica, self.player.begin(replica), at)
            self._arrive(coming)

        self.world.after(at - self.world.now, arrive)

    def _try(self, number: int, replica: int, request: Request, began: float) -> None:
        name, sent = request.next(), self.world.now
        if name is None:
            self.tally.failed += 1
            self.tally.seconds.append(sent - began)
            return
        self.tally.calls[name] += 1
        self.tally.to_the_dead += any(t.chance == 1.0 and t.replica is None for t in self.all[name].troubles(replica))

        def begins() -> None:
            self.tally.seconds.append(self.world.now - began)
            self._note(sent, name, 200)
            request.first_token()

        def answered(answer: Answer, seconds: float) -> None:
            request.ended(answer, seconds)
            if answer.status != 200:
                self._note(sent, name, answer.status)
                self._try(number, replica, request, began)

        draw = random.Random(f"{self.shape.seed} {self.shape.number} {number} {name}")
        stream = 0.0
        if self.shape.stream:  # as long wherever it comes from
            of_all = random.Random(f"{self.shape.seed} {self.shape.number} {number} stream")
            stream = self.shape.stream * of_all.lognormvariate(0.0, self.shape.stream_sigma)
        Served(self.all[name], replica, draw, stream, request.timeout, begins, answered).begin()

    def _note(self, sent: float, name: str, status: int) -> None:
        self.tally.statuses[status] += 1
        if self._watch is not None:
            self._watch(Call(self.world.now, name, status, self.world.now - sent))

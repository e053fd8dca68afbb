"""Virtual time, providers with queues and incidents, and requests that try one provider after the other."""

import heapq
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, Protocol

TIMEOUT = 5.0
"""Seconds after which the client gives up on a call."""
TRIES = 3


class World:
    """What happens when: actions in the order of their moments, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do this so many seconds from now."""
        heapq.heappush(self._queue, (self.now + seconds, next(self._numbers), action))

    def run(self, until: float) -> None:
        """Play on until then."""
        while self._queue and self._queue[0][0] <= until:
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self.now = until


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended; `status` 200, 429 with `retry_after` in seconds, 5xx, or 0 for the client's time-out."""

    status: int
    retry_after: float | None = None


class Timed:
    """What goes on from `begin` to `end`, as `replica` sees it (None: as all do), all the time or now and then."""

    __slots__ = ()
    begin: float
    end: float
    replica: int | None
    up_for: float
    down_for: float

    def hits(self, now: float, replica: int | None) -> bool:
        """Does it go on at this moment, for this replica? None: for all."""
        if not self.begin <= now < self.end or (self.replica is not None and replica != self.replica):
            return False
        period = self.up_for + self.down_for
        return not period or (now - self.begin) % period < self.down_for


@dataclass(frozen=True, slots=True)
class Incident(Timed):
    """What is wrong with one provider from `begin` to `end` (seconds), as `replica` sees it (None: as all do).

    status      what calls get, or 0: no answer until the client gives up
    chance      for how much of the calls
    after       seconds until they get it
    slowdown    how many times longer calls take at the end, growing from 1
    limit       requests a second that it serves; above, 429 with Retry-After 5
    up_for, down_for  it comes and goes: seconds
    """

    provider: str
    begin: float
    end: float
    status: int = 500
    chance: float = 0.0
    after: float = 0.02
    slowdown: float = 1.0
    limit: float | None = None
    replica: int | None = None
    up_for: float = 0.0
    down_for: float = 0.0


@dataclass
class Provider:
    """`slots` calls at once, the others queue; a call takes a lognormal time."""

    name: str
    median: float
    slots: int
    sigma: float = 0.4
    most_waiting: int = 200
    weight: float = 1.0
    busy: int = 0
    tokens: float = 0.0
    filled_at: float = 0.0
    waiting: deque[Callable[[], None]] = field(default_factory=deque)
    arrivals: list[tuple[float, int]] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Seconds of service, without incidents."""
        return self.median * math.exp(self.sigma**2 / 2)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Which incidents there are, and when every replica starts anew; `sick` is the provider that they are about."""

    name: str
    incidents: Sequence[Incident] = ()
    restart_at: float | None = None
    sick: str = "a"

    @property
    def over_at(self) -> float:
        """When the last incident ends."""
        return max((each.end for each in self.incidents), default=0.0)


class Request(Protocol):
    """One request under a policy."""

    def next(self) -> str | None:
        """The provider to call now; None where the request failed for good."""

    def ended(self, answer: Answer, seconds: float) -> None:
        """How that call went."""


class Policy(Protocol):
    """Who chooses, and who is told how calls went."""

    def begin(self, replica: int) -> Request: ...

    def restart(self) -> None: ...


class Tries:
    """A request under a policy that knows no requests, only calls: it tries up to `TRIES` providers.

    `choose` gives a provider and a ticket, which is whatever `done` needs to know when the call is over.
    """

    def __init__(self, policy: "ByCall", replica: int) -> None:
        self._policy = policy
        self._replica = replica
        self._tried: frozenset[str] = frozenset()
        self._ticket: Any = None

    def next(self) -> str | None:
        choice = self._policy.choose(self._replica, self._tried) if len(self._tried) < TRIES else None
        if choice is None:
            return None
        name, self._ticket = choice
        self._tried |= {name}
        return name

    def ended(self, answer: Answer, seconds: float) -> None:
        self._policy.done(self._replica, self._ticket, answer, seconds)


class ByCall:
    """A policy that is asked call by call."""

    def begin(self, replica: int) -> Request:
        return Tries(self, replica)

    def choose(self, replica: int, tried: frozenset[str]) -> tuple[str, Any] | None:
        raise NotImplementedError

    def done(self, replica: int, ticket: Any, answer: Answer, seconds: float) -> None: ...


@dataclass
class Tally:
    """What one run came to."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    requests: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    to_the_dead: int = 0
    to_the_recovering: int = 0
    before: Counter[str] = field(default_factory=Counter)


class Run:
    """One scenario under one policy."""

    def __init__(
        self, scenario: Scenario, providers: Sequence[Provider], replicas: int, rate: float, length: float, seed: int
    ) -> None:
        self.world = World()
        self.scenario = scenario
        self.providers = {p.name: p for p in providers}
        self.replicas = replicas
        self.length = length
        self.seed = seed
        self.tally = Tally()
        self._rate = rate
        self._arrivals = random.Random(f"{seed} arrivals")

    def play(self, make: Callable[["Run"], Policy]) -> Tally:
        """Let requests arrive until `length`, and what is under way end."""
        self.policy = make(self)
        self._arrive(0)
        if self.scenario.restart_at is not None:
            self.world.after(self.scenario.restart_at, self.policy.restart)
        self.world.run(self.length + TRIES * TIMEOUT + 1.0)
        return self.tally

    def _arrive(self, number: int) -> None:
        wait = self._arrivals.expovariate(self._rate)
        if self.world.now + wait >= self.length:
            return

        def arrive() -> None:
            self.tally.requests += 1
            replica = self._arrivals.randrange(self.replicas)
            self._try(number, replica, self.policy.begin(replica), self.world.now)
            self._arrive(number + 1)

        self.world.after(wait, arrive)

    def _try(self, number: int, replica: int, request: Request, began: float) -> None:
        name, sent = request.next(), self.world.now
        if name is None:
            self.tally.failed += 1
            self.tally.seconds.append(sent - began)
            return
        self._count(name)

        def answered(answer: Answer) -> None:
            request.ended(answer, self.world.now - sent)
            if answer.status == 200:
                self.tally.seconds.append(self.world.now - began)
            else:
                self._try(number, replica, request, began)

        self._call(self.providers[name], replica, random.Random(f"{self.seed} {number} {name}"), answered)

    def _count(self, name: str) -> None:
        now, scenario = self.world.now, self.scenario
        self.tally.calls[name] += 1
        if now < min((each.begin for each in scenario.incidents), default=self.length):
            self.tally.before[name] += 1
        if name == scenario.sick:
            self.tally.to_the_dead += any(each.hits(now, None) and each.chance for each in scenario.incidents)
            self.tally.to_the_recovering += bool(scenario.incidents) and 0 <= now - scenario.over_at < 10.0

    # What a provider does

    def incidents(self, name: str, replica: int | None) -> list[Incident]:
        """What is wrong with it now."""
        now = self.world.now
        return [each for each in self.scenario.incidents if each.provider == name and each.hits(now, replica)]

    def slowdown(self, name: str, replica: int | None) -> float:
        """How many times longer a call takes that is served now."""
        times = 1.0
        for each in self.incidents(name, replica):
            times *= 1 + (each.slowdown - 1) * (self.world.now - each.begin) / (each.end - each.begin)
        return times

    def has_token(self, provider: Provider, limit: float) -> bool:
        """Is a request within its rate limit, with a burst of a second?"""
        passed, provider.filled_at = self.world.now - provider.filled_at, self.world.now
        provider.tokens = min(limit, provider.tokens + passed * limit)
        return provider.tokens >= 1

    def _call(self, provider: Provider, replica: int, draw: random.Random, answered: Callable[[Answer], None]) -> None:
        wanted = draw.lognormvariate(0.0, provider.sigma) * provider.median
        for each in self.incidents(provider.name, replica):
            if each.limit is not None:
                if not self.has_token(provider, each.limit):
                    self.world.after(0.02, lambda: answered(Answer(429, 5.0)))
                    return
                provider.tokens -= 1
            if draw.random() < each.chance:
                after, status = (TIMEOUT, 0) if each.status == 0 else (each.after, each.status)
                self.world.after(after, partial(answered, Answer(status)))
                return
        if len(provider.waiting) >= provider.most_waiting:
            self.world.after(0.02, lambda: answered(Answer(503)))
            return
        self._queue(provider, replica, wanted, answered)

    def _queue(self, provider: Provider, replica: int, wanted: float, answered: Callable[[Answer], None]) -> None:
        state = {"over": False, "serving": False}

        def give_up() -> None:
            if not state["over"]:
                end(Answer(0))

        def end(answer: Answer) -> None:
            state["over"] = True
            if state["serving"]:
                provider.busy -= 1
                while provider.waiting and provider.busy < provider.slots:
                    provider.waiting.popleft()()
            answered(answer)

        def serve() -> None:
            if state["over"]:
                return
            state["serving"] = True
            provider.busy += 1
            self.world.after(
                wanted * self.slowdown(provider.name, replica), lambda: None if state["over"] else end(Answer(200))
            )

        self.world.after(TIMEOUT, give_up)
        if provider.busy < provider.slots:
            serve()
        else:
            provider.waiting.append(serve)


Make = Callable[[Run], Policy]
Policies = Mapping[str, Make]

"""One world in virtual time: requests come, providers answer, incidents come and go."""

import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from benchmarks.quality.world import TRIES, Answer, World
from benchmarks.quality.worlds.draw import arrivals
from benchmarks.quality.worlds.shape import Shape, Site, Trouble

QUICKLY = 0.02
"""Seconds until a provider refuses a call."""
MOST_WAITING = 200
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


@dataclass
class Live:
    """A provider at work."""

    site: Site
    slots: int
    busy: int = 0
    weight: float = 1.0
    tokens: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By limit: how many are left, and when that was."""
    waiting: deque[Callable[[], None]] = field(default_factory=deque)

    @property
    def name(self) -> str:
        return self.site.name

    def tokens_at(self, key: str, rate: float, window: float, now: float) -> float:
        """Requests that a limit still allows at this moment."""
        most = max(1.0, rate * window)
        left, at = self.tokens.get(key, (most, now))
        left = min(most, left + (now - at) * rate)
        self.tokens[key] = left, now
        return left

    def spend(self, key: str) -> None:
        left, at = self.tokens[key]
        self.tokens[key] = left - 1, at


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
        self.all = {site.name: Live(site, site.slots) for site in shape.sites}
        self.providers = {name: live for name, live in self.all.items() if name not in late}
        """Those that policies know; the drained ones too."""
        self.drained: set[str] = set()
        self.tally = Tally()
        self._troubles = {name: [t for t in shape.troubles if t.provider == name] for name in self.all}
        self._watch = watch

    def play(self, make: Callable[["Ground"], Player]) -> Tally:
        """Until the last request is over. The global stream, which strategies draw from, is seeded."""
        random.seed(self.seed)
        self.player = make(self)
        for trouble in self.shape.troubles:
            self._plan(trouble)
        self._arrive(deque(enumerate(arrivals(self.shape))))
        self.world.run(self.shape.length + self.shape.patience + 10 * self.shape.stream_mean + 1.0)
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
            after(trouble.end, lambda: self._shrink(self.all[trouble.provider], trouble.slots_after))

    def _restart(self, replicas: Iterable[int]) -> None:
        for replica in replicas:
            self.player.restart(replica)

    def _add(self, name: str) -> None:
        self.providers[name] = self.all[name]
        self.player.add(name)

    def _drain(self, name: str) -> None:
        self.drained.add(name)
        self.player.drain(name)

    def _shrink(self, live: Live, part: float) -> None:
        live.slots = max(1, round(live.slots * part))

    def troubles(self, name: str, replica: int | None) -> list[Trouble]:
        """What goes on at a provider now."""
        now = self.world.now
        return [t for t in self._troubles[name] if t.hits(now, replica)]

    def slowdown(self, name: str, replica: int | None) -> float:
        """How many times as long an answer takes that is begun now, with the strain of the others."""
        live, times = self.all[name], 1.0
        for each in self._troubles[name]:
            if each.hits(self.world.now, replica):
                times *= each.times(self.world.now)
        return times * (1 + live.site.strain * min(1.0, live.busy / live.slots))

    def has_room(self, live: Live, replica: int | None) -> bool:
        """Would no rate limit refuse a call now?"""
        return all(live.tokens_at(key, rate, window, self.world.now) >= 1 for key, rate, window, _ in self._limits(live))

    def _limits(self, live: Live) -> list[tuple[str, float, float, float | None]]:
        site, found = live.site, []
        if site.limit is not None:
            found.append(("own", site.limit, site.limit_window, site.retry_after))
        for number, each in enumerate(self._troubles[site.name]):
            if each.limit is not None and each.hits(self.world.now, None):
                found.append((f"incident {number}", each.limit, 1.0, each.retry_after))
        return found

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
        self.tally.to_the_dead += any(t.chance == 1.0 and t.replica is None for t in self.troubles(name, replica))

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
        Served(self, self.all[name], replica, draw, stream, request.timeout, begins, answered).begin()

    def _note(self, sent: float, name: str, status: int) -> None:
        self.tally.statuses[status] += 1
        if self._watch is not None:
            self._watch(Call(self.world.now, name, status, self.world.now - sent))


class Served:
    """One call at one provider."""

    def __init__(
        self,
        ground: Ground,
        live: Live,
        replica: int,
        draw: random.Random,
        stream: float,
        timeout: float,
        begins: Callable[[], None],
        answered: Callable[[Answer, float], None],
    ) -> None:
        self._ground, self._live, self._replica = ground, live, replica
        self._wanted = draw.lognormvariate(0.0, live.site.sigma) * live.site.median
        self._draw, self._stream, self._timeout = draw, stream, timeout
        self._begins, self._answered = begins, answered
        self._sent = ground.world.now
        self._over = self._serving = False

    def begin(self) -> None:
        """Refused, failed, served, or put into the queue."""
        ground, live, after = self._ground, self._live, self._ground.world.after
        for key, rate, window, says in ground._limits(live):
            if live.tokens_at(key, rate, window, ground.world.now) < 1:
                after(QUICKLY, partial(self._fail, Answer(429, says)))
                return
        for key, *_ in ground._limits(live):
            live.spend(key)
        for each in ground.troubles(live.name, self._replica):
            if self._draw.random() < each.chance:
                hangs = each.status == 0 or each.after >= self._timeout
                after(self._timeout if hangs else each.after, partial(self._fail, Answer(0 if hangs else each.status)))
                return
        if len(live.waiting) >= MOST_WAITING:
            after(QUICKLY, partial(self._fail, Answer(503)))
            return
        after(self._timeout, self._give_up)
        if live.busy < live.slots:
            self._serve()
        else:
            live.waiting.append(self._serve)

    def _serve(self) -> None:
        if self._over:
            return
        ground, live = self._ground, self._live
        self._serving = True
        live.busy += 1
        ground.world.after(self._wanted * ground.slowdown(live.name, self._replica), self._first_token)

    def _first_token(self) -> None:
        if self._over:
            return
        self._over = True
        world = self._ground.world
        seconds = world.now - self._sent
        self._begins()
        if self._stream:
            world.after(self._stream, partial(self._end, seconds))
        else:
            self._end(seconds)

    def _end(self, seconds: float) -> None:
        self._leave()
        self._answered(Answer(200), seconds)

    def _give_up(self) -> None:
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
        self._answered(answer, self._ground.world.now - self._sent)


class Tries:
    """A request under a policy that knows calls only: up to `TRIES`, and the time-outs that `Router.attempts` gives."""

    def __init__(self, policy: "ByCall", ground: Ground, replica: int) -> None:
        self._policy, self._ground, self._replica = policy, ground, replica
        deadline = ground.shape.deadline
        self._until = None if deadline is None else ground.world.now + deadline
        self._left = TRIES
        self._tried: frozenset[str] = frozenset()
        self._ticket: object = None

    def next(self) -> str | None:
        if not self._left or (self._until is not None and self._ground.world.now >= self._until):
            return None
        choice = self._policy.choose(self._replica, self._tried)
        if choice is None:
            return None
        name, self._ticket = choice
        self._left -= 1
        self._tried |= {name}
        return name

    @property
    def timeout(self) -> float:
        if self._until is None:
            return self._ground.shape.timeout
        left = max(0.001, self._until - self._ground.world.now)
        others = self._ground.providers.keys() - self._ground.drained - self._tried
        return left / 2 if self._left and others else left

    def first_token(self) -> None: ...

    def ended(self, answer: Answer, seconds: float) -> None:
        self._policy.done(self._replica, self._ticket, answer, seconds)


class ByCall:
    """A player that is asked call by call."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground

    def begin(self, replica: int) -> Request:
        return Tries(self, self.ground, replica)

    def choose(self, replica: int, tried: frozenset[str]) -> tuple[str, object] | None:
        raise NotImplementedError

    def done(self, replica: int, ticket: object, answer: Answer, seconds: float) -> None: ...

    def restart(self, replica: int) -> None: ...

    def add(self, name: str) -> None: ...

    def drain(self, name: str) -> None: ...

    def states(self) -> dict[str, str]:
        return {}

    def left(self, tried: frozenset[str]) -> Sequence[str]:
        """Who may be asked: known, not drained, not tried."""
        return [name for name in self.ground.providers if name not in tried and name not in self.ground.drained]

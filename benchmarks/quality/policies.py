"""Who chooses: an oracle, the original router, and this library's fleet on its real tables, strategies and scripts."""

import random
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.quality.world import Answer, Provider, Run
from redis_router import CircuitConfig, CircuitState, Outcome, ProviderHealth
from redis_router import Provider as Registered
from redis_router.circuit import machine as circuit
from redis_router.circuit.outcome import Result
from redis_router.replica.local import OwnView, is_local
from redis_router.routing.candidate import Candidate
from redis_router.routing.strategies import Strategy, best_first, looking, resolve
from redis_router.routing.table import EMPTY, RoutingTable, Tables, changes_in_ms, pick_from
from redis_router.store.connect import connect
from redis_router.store.messages import Reply
from redis_router.store.redis import Batch, Store

MODEL = "m"
EPOCH_MS = 1_700_000_000_000
ROUND_TRIP, PUSH, FLUSH = 0.001, 0.002, 0.05
"""Seconds: a command and its reply, a change until it is at a replica, how long successes wait for company."""
PERMIT_TTL = 15.0


def outcome_of(answer: Answer) -> Outcome:
    """As `redis_router.classify` has it."""
    if answer.status == 200:
        return Outcome.SUCCESS
    return Outcome.RATE_LIMITED if answer.status == 429 else Outcome.FAILURE


class Oracle:
    """Knows how every provider is, and its queue; takes the one that will have answered first."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def choose(self, replica: int, tried: frozenset[str]) -> tuple[str, Any] | None:
        left = [p for p in self._run.providers.values() if p.name not in tried]
        return (min(left, key=lambda p: self._badness(p, replica)).name, None) if left else None

    def _badness(self, provider: Provider, replica: int) -> tuple[float, float]:
        incidents = self._run.incidents(provider.name, replica)
        limited = any(each.limit is not None and not self._run.has_token(provider, each.limit) for each in incidents)
        chance = 1.0 if limited else max((each.chance for each in incidents), default=0.0)
        mean = provider.mean * self._run.slowdown(provider.name, replica)
        rounds = 1 + max(0, provider.busy + len(provider.waiting) + 1 - provider.slots) / provider.slots
        return chance, mean * rounds

    def done(self, replica: int, ticket: Any, answer: Answer, seconds: float) -> None: ...

    def restart(self) -> None: ...


class Original:
    """The Go router in each replica by itself: its circuits, its latency strategy, unlimited half-open."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.restart()

    def restart(self) -> None:
        self._records = [
            {name: ProviderHealth(name) for name in self._run.providers} for _ in range(self._run.replicas)
        ]

    def _now_ms(self) -> int:
        return EPOCH_MS + int(self._run.world.now * 1000)

    def choose(self, replica: int, tried: frozenset[str]) -> tuple[str, Any] | None:
        records, now = self._records[replica], self._now_ms()
        for name, health in records.items():  # its checker's loop
            records[name], _ = circuit.half_open(health, now)
        left = [
            h
            for h in records.values()
            if h.name not in tried and (h.available or h.circuit_state is CircuitState.HALF_OPEN)
        ]
        if not left:
            return None
        best = min(left, key=lambda h: h.latency_ms)
        return best.name, best.name

    def done(self, replica: int, ticket: Any, answer: Answer, seconds: float) -> None:
        health = self._records[replica][ticket]
        outcome = Outcome.SUCCESS if answer.status == 200 else Outcome.FAILURE
        result = Result(ticket, outcome, seconds * 1000, health.generation)
        self._records[replica][ticket], _ = circuit.record(health, result, self._now_ms())


@dataclass
class Replica:
    """One of ours: its table, what it has to send, and its permits."""

    number: int
    store: Store
    tables: Tables
    own: OwnView
    spare: Strategy
    table: RoutingTable = EMPTY
    fleet: dict[str, ProviderHealth] = field(default_factory=dict)
    buffer: dict[str, list[Result]] = field(default_factory=lambda: defaultdict(list))
    flushes: set[str] = field(default_factory=set)
    in_hand: dict[str, deque[tuple[str, int]]] = field(default_factory=lambda: defaultdict(deque))
    seq: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class Ours:
    """A fleet of this library's replicas and its worker."""

    def __init__(self, run: Run, url: str, strategy: Callable[[], Strategy], config: CircuitConfig) -> None:
        self._run = run
        self._world = run.world
        self._draw = random.Random(run.seed)
        self._strategy = strategy
        self._client = connect(url)
        self._namespace = f"q{random.SystemRandom().randrange(1 << 48):x}"
        self._worker = self._store("worker")
        self._tokens = 0
        self._due: set[str] = set()
        for p in run.providers.values():
            self._worker.register(Registered(p.name, (MODEL,), weight=p.weight), config)
        self.restart()
        self._tick()

    def _store(self, writer: str) -> Store:
        store = Store(self._client, self._namespace, writer)
        store.now_ms = EPOCH_MS
        store.jitter = self._draw.random
        return store

    def _now_ms(self) -> int:
        return EPOCH_MS + int(self._world.now * 1000)

    def restart(self) -> None:
        """Replicas without memory read the fleet's records."""
        records = self._worker.snapshot().records
        self._replicas = []
        for number in range(self._run.replicas):
            tables = Tables(looking(self._strategy(), self._now_ms), self._now_ms)
            spare = best_first(self._strategy())
            replica = Replica(number, self._store(f"gw{number}"), tables, OwnView(self._now_ms), spare)
            parts = [Registered(name, (MODEL,)) for name in self._run.providers]
            replica.table = tables.build(parts, records)
            replica.fleet = dict(records)
            for health in records.values():
                self._show(replica, health)
            self._replicas.append(replica)

    # Choosing, as Router does

    def choose(self, number: int, tried: frozenset[str]) -> tuple[str, Any] | None:
        replica = self._replicas[number]
        selector = replica.table.find(MODEL)
        assert selector is not None
        for candidate in selector.on_trial:
            name = candidate.health.name
            if name not in tried and replica.in_hand[name]:
                token, generation = replica.in_hand[name].popleft()
                self._world.after(ROUND_TRIP, partial(self._claim, replica, name))
                return self._begin(replica, candidate, generation, token)
        if selector.pick is None:
            return None
        if not tried:
            candidate = selector.pick()
        else:
            rest = [c for c in selector.routable if c.health.name not in tried]
            if not rest:
                return None
            candidate = pick_from(replica.spare, MODEL, rest)
        return self._begin(replica, candidate, candidate.health.generation, "")

    def _begin(self, replica: Replica, candidate: Candidate, generation: int, token: str) -> tuple[str, Any]:
        candidate.here.in_flight.append(None)
        return candidate.provider.name, (replica, candidate, generation, token)

    def done(self, number: int, ticket: Any, answer: Answer, seconds: float) -> None:
        replica, candidate, generation, token = ticket
        candidate.here.in_flight.pop()
        name, outcome = candidate.health.name, outcome_of(answer)
        cooldown_ms = (answer.retry_after or 5.0) * 1000
        result = Result(name, outcome, seconds * 1000, generation, token, cooldown_ms=cooldown_ms)
        replica.buffer[name].append(result)
        for shown in replica.own.decide([result]):
            replica.table = replica.tables.updated(replica.table, [shown])
        if outcome is not Outcome.SUCCESS or token:
            self._world.after(ROUND_TRIP, partial(self._flush, replica, name))
        elif name not in replica.flushes:
            replica.flushes.add(name)
            self._world.after(FLUSH, partial(self._flush, replica, name))

    # What the engine and the push do

    def _flush(self, replica: Replica, name: str) -> None:
        replica.flushes.discard(name)
        batch, replica.buffer[name] = replica.buffer[name], []
        if not batch:
            return
        replica.seq[name] += 1
        replica.store.now_ms = self._now_ms()
        (reply,) = replica.store.record([Batch(name, replica.seq[name], batch)])
        assert isinstance(reply, Reply), reply
        self._answered(replica, reply)

    def _answered(self, replica: Replica | None, reply: Reply) -> None:
        health = reply.health
        assert health is not None
        if replica is not None:
            self._world.after(ROUND_TRIP, partial(self._show, replica, health))
        if int(self._client.hget(self._worker.keys.health(health.name), "last_push_ms")) == self._now_ms():
            for each in self._replicas:
                self._world.after(PUSH, partial(self._show, each, health))
        if health.circuit_state is CircuitState.OPEN and health.name not in self._due:
            self._due.add(health.name)
            due_in = max(0.0, health.due_in_ms(self._now_ms()) / 1000)
            self._world.after(due_in + 0.02, partial(self._half_open, health.name))

    def _half_open(self, name: str) -> None:
        self._due.discard(name)
        self._worker.now_ms = self._now_ms()
        self._answered(None, self._worker.half_open(name))

    def _show(self, replica: Replica, health: ProviderHealth) -> None:
        known = replica.fleet.get(health.name)
        if known is not None and known.supersedes(health):
            return
        replica.fleet[health.name] = health
        shown = replica.own.shown(health)
        replica.table = replica.tables.updated(replica.table, [shown])
        wait = changes_in_ms(health, self._now_ms())
        if wait is not None:
            self._world.after(wait / 1000 + 0.001, partial(self._show, replica, health))
        if health.circuit_state is CircuitState.HALF_OPEN:
            if known is None or known.generation != health.generation:
                self._world.after(ROUND_TRIP, partial(self._claim, replica, health.name))
        else:
            replica.in_hand[health.name].clear()

    def _claim(self, replica: Replica, name: str) -> None:
        health = replica.fleet[name]
        if health.circuit_state is not CircuitState.HALF_OPEN or replica.in_hand[name] or replica not in self._replicas:
            return
        self._tokens += 1
        replica.store.now_ms = self._now_ms()
        generation, held = replica.store.claim(name, [f"t{self._tokens}"], int(PERMIT_TTL * 1000))
        if held:
            replica.in_hand[name].append((held[0], generation))
        else:
            self._world.after(self._draw.uniform(0.1, 0.3), partial(self._claim, replica, name))

    def _tick(self) -> None:
        for replica in self._replicas:
            for shown in replica.own.decide([]):
                replica.table = replica.tables.updated(replica.table, [shown])
            for candidate in replica.table.candidates.values():  # permits of its own, where only its view is half-open
                health = candidate.health
                on_trial = is_local(health) and health.circuit_state is CircuitState.HALF_OPEN
                if on_trial and not replica.in_hand[health.name]:
                    replica.in_hand[health.name].append(("own", health.generation))
        self._world.after(0.25, self._tick)


GUIDE = CircuitConfig(
    window=10.0,
    minimum_calls=10,
    window_failure_rate_threshold=0.3,
    slow_call_duration_threshold=2.5,
    slow_call_rate_threshold=0.5,
    open_timeout=5.0,
    open_timeout_multiplier=2.0,
    open_timeout_max=60.0,
    open_timeout_jitter=0.2,
    min_reporters=2,
    slow_start=10.0,
)
"""What the README's guide recommends; a slow call is one that takes longer than 99 % of the best provider's do."""


def ours(url: str, strategy: str | Callable[[], Strategy], config: CircuitConfig) -> Callable[[Run], Ours]:
    """A policy of ours, for `Run.play`."""
    make = partial(resolve, strategy) if isinstance(strategy, str) else strategy
    return lambda run: Ours(run, url, make, config)

"""This library's fleet in virtual time.

Real are a request's attempts, what answers mean, the chooser, tables and strategies with the defaults of `Options`,
and the scripts on a real server. Simulated are the clock, the network, and the threads of each replica that carry
results, claim permits and show changes.
"""

import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.quality.world import TRIES, Answer, Run
from redis_router import Attempt, Attempts, CircuitConfig, CircuitState, NoProviderAvailable, Outcome, ProviderHealth
from redis_router import Provider as Registered
from redis_router.circuit.generations import is_local
from redis_router.circuit.outcome import Result, UnderWay
from redis_router.options import Options
from redis_router.replica.alone import Alone
from redis_router.replica.permits import Permit
from redis_router.request.chooser import Chooser
from redis_router.request.classify import Verdicts
from redis_router.request.context import Context
from redis_router.request.deadline import Deadline
from redis_router.routing.choose import Rules
from redis_router.routing.strategies import Strategy, best_first, looking
from redis_router.routing.table import EMPTY, RoutingTable, Tables, changes_in_ms
from redis_router.store.connect import connect
from redis_router.store.contract import Batch, Store
from redis_router.store.messages import Reply
from redis_router.store.redis import RedisStore

MODEL = "m"
EPOCH_MS = 1_700_000_000_000
ROUND_TRIP, PUSH = 0.001, 0.002
"""Seconds: a command and its reply, a change until it is at a replica."""
TICK = 0.25
"""Seconds between looks at permits and at circuits of a replica's own."""
DEFAULTS = Options()
TTL_MS = round(DEFAULTS.permit_ttl * 1000)


class HttpError(Exception):
    """As an SDK raises it: with the status, and the headers of the answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"status {answer.status}")
        self.status_code = answer.status
        self.headers = {} if answer.retry_after is None else {"retry-after": f"{answer.retry_after:g}"}


class ClientTimeout(TimeoutError):
    """As an HTTP client raises it."""


def error_of(answer: Answer) -> Exception | None:
    """What the client's code sees."""
    if answer.status == 200:
        return None
    return ClientTimeout("no answer") if answer.status == 0 else HttpError(answer)


class OurRequest:
    """The library's own attempts, entered and left as `for` and `with` do it, when virtual time comes to it."""

    def __init__(self, context: Context, deadline: Deadline | None = None) -> None:
        deadline = deadline or Deadline(None, None, None, context.now)
        attempts: Attempts[Any] = Attempts(
            context, (MODEL,), max_attempts=TRIES, deadline=deadline, wait=False, must_wait=False
        )
        self._attempts: Iterator[Attempt[Any]] = iter(attempts)
        self._attempt: Attempt[Any] | None = None

    def next(self) -> str | None:
        with suppress(NoProviderAvailable, HttpError, ClientTimeout):
            self._attempt = next(self._attempts, None)
            if self._attempt is not None:
                return self._attempt.__enter__().provider.name
        return None

    def ended(self, answer: Answer, seconds: float) -> None:
        assert self._attempt is not None
        error = error_of(answer)
        is_held_back = self._attempt.__exit__(type(error) if error is not None else None, error, None)
        if not is_held_back:  # it is over, well or with this error
            self._attempts.close()  # type: ignore[attr-defined]  # it is a generator


@dataclass
class View:
    """What a replica routes by."""

    table: RoutingTable = EMPTY


class Permits:
    """Those of one replica; `claim` asks for the next."""

    def __init__(self, replica: "Replica", claim: Callable[[str], None]) -> None:
        self._replica = replica
        self._claim = claim
        self.in_hand: dict[str, deque[Permit]] = defaultdict(deque)
        self.running: dict[str, Permit] = {}

    def take(self, name: str) -> Permit | None:
        if not self.in_hand[name]:
            return None
        permit = self.in_hand[name].popleft()
        permit.until = float("inf")  # only a real clock could tell that it waited too long
        self.running[permit.token] = permit
        self._claim(name)
        return permit

    def done(self, permit: Permit) -> Permit:
        self.running.pop(permit.token, None)
        return permit

    def hand_back(self, permit: Permit) -> None:
        self.done(permit)
        self._replica.outbox.put(Result(permit.provider, Outcome.IGNORED, 0.0, permit.generation, permit.token))

    def abandon(self, permit: Permit) -> None:
        """Nothing: no request of ours chooses a call and does not make it."""


class Outbox:
    """The results of one replica, on their way."""

    def __init__(self, put: Callable[[Result], None]) -> None:
        self.put = put

    def urge(self) -> None:
        """Nothing: who takes a permit here claims the next."""


class Replica:
    """One of the fleet: it stands in for the engine of a router."""

    closed = False

    def __init__(self, fleet: "Fleet", number: int) -> None:
        self._fleet = fleet
        self.store = fleet.new_store(f"gw{number}")
        self.alone = Alone(self.store.writer, fleet.now_ms)
        self.view = View()
        self.permits = Permits(self, partial(fleet.claim_soon, self))
        self.outbox = Outbox(partial(fleet.put, self))
        self.records: dict[str, ProviderHealth] = {}
        self.buffer: dict[str, list[Result]] = defaultdict(list)
        self.flushes: set[str] = set()
        self.seq: dict[str, int] = defaultdict(int)
        self.renew_at = 0.0
        strategy = looking(fleet.strategy(), fleet.now_ms)
        self.tables = Tables(strategy, fleet.now_ms, DEFAULTS.least_bad, DEFAULTS.panics, DEFAULTS.max_ejection_percent)
        rules = Rules(best_first(fleet.strategy()), fleet.now_ms, DEFAULTS.least_bad, fleet.monotonic)
        verdicts = Verdicts(None, DEFAULTS.rate_limit_cooldown, DEFAULTS.rate_limit_cooldown_max)
        self.context = Context(self, Chooser(self, rules), verdicts, fleet.monotonic)  # type: ignore[arg-type]

    def now_ms(self) -> float:
        return self._fleet.now_ms()

    def want(self, model: str) -> None:
        """Nothing: there is always demand here."""

    def show(self, health: ProviderHealth) -> None:
        """In the table, from here on."""
        self.view.table = self.tables.updated(self.view.table, [health])


class Fleet:
    """A policy: this library's replicas and its worker. `strategy` makes an object for each replica."""

    def __init__(self, run: Run, url: str, strategy: Callable[[], Strategy], config: CircuitConfig) -> None:
        self.strategy = strategy
        self._run = run
        self._world = run.world
        self._draw = random.Random(run.seed)
        self._open(url)
        self._worker = self.new_store("worker")
        self._tokens = 0
        self._due: set[str] = set()
        for p in run.providers.values():
            self._worker.register(Registered(p.name, (MODEL,), weight=p.weight), config)
        self.restart()
        self._tick()

    def _open(self, url: str) -> None:
        self._client = connect(url)
        self._namespace = f"q{random.SystemRandom().randrange(1 << 48):x}"

    def new_store(self, writer: str) -> RedisStore:
        store = RedisStore(self._client, self._namespace, writer, round(DEFAULTS.push_interval * 1000))
        store.now_ms = EPOCH_MS
        store.jitter = self._draw.random
        return store

    def now_ms(self) -> int:
        return EPOCH_MS + int(self._world.now * 1000)

    def monotonic(self) -> float:
        return self._world.now + 1.0  # 0 would be no moment

    def restart(self) -> None:
        """Replicas without memory read the fleet's records."""
        records = self._worker.snapshot().records
        self._replicas = [self._started(number, records) for number in range(self._run.replicas)]

    def _started(self, number: int, records: Mapping[str, ProviderHealth]) -> Replica:
        replica = Replica(self, number)
        parts = [Registered(name, (MODEL,)) for name in self._run.providers]
        replica.view.table = replica.tables.build(parts, records)
        replica.records = dict(records)
        for health in records.values():
            self._show(replica, health)
        return replica

    def begin(self, number: int) -> OurRequest:
        return OurRequest(self._replicas[number].context)

    # What the threads of a replica and the push do

    def put(self, replica: Replica, result: Result) -> None:
        name, latency_ms, duration_ms = result.provider, round(result.latency_ms, 3), round(result.duration_ms, 3)
        result = result._replace(latency_ms=latency_ms, duration_ms=duration_ms)  # as exact as it travels to a server
        replica.buffer[name].append(result)
        for shown in replica.alone.decide([result]):
            replica.show(shown)
        if result.outcome not in (Outcome.SUCCESS, Outcome.BEGUN) or result.permit:
            self._world.after(ROUND_TRIP, partial(self._flush, replica, name))
        elif name not in replica.flushes:
            replica.flushes.add(name)
            self._world.after(DEFAULTS.flush_interval, partial(self._flush, replica, name))

    def _flush(self, replica: Replica, name: str) -> None:
        replica.flushes.discard(name)
        batch, replica.buffer[name] = replica.buffer[name], []
        if batch:
            self._send(replica, name, batch)

    def _send(self, replica: Replica, name: str, batch: list[Result]) -> None:
        under_way = replica.view.table.candidates[name].under_way(self.monotonic())
        replica.seq[name] += 1
        replica.store.now_ms = self.now_ms()
        (reply,) = replica.store.record([Batch(name, replica.seq[name], batch, under_way)])
        assert isinstance(reply, Reply), reply
        self._world.after(ROUND_TRIP, partial(self._show_reply, replica, reply, batch, under_way))
        self._announce(reply)

    def _show_reply(self, replica: Replica, reply: Reply, batch: list[Result], under_way: UnderWay) -> None:
        assert reply.health is not None
        replica.view.table.candidates[reply.health.name].here.told = under_way
        self._show(replica, reply.health)
        if any(result.outcome is Outcome.RATE_LIMITED for result in batch):
            replica.view.table.candidates[reply.health.name].here.limited_until = 0.0  # the record says it

    def _announce(self, reply: Reply) -> None:
        health = reply.health
        assert health is not None
        if self._was_pushed(health.name):
            for each in self._replicas:
                self._world.after(PUSH, partial(self._show, each, health))
        if health.circuit_state is CircuitState.OPEN and health.name not in self._due:
            self._due.add(health.name)
            due_in = max(0.0, health.due_in_ms(self.now_ms()) / 1000)
            self._world.after(due_in + 0.02, partial(self._half_open, health.name))

    def _was_pushed(self, name: str) -> bool:
        return int(self._client.hget(self._worker.keys.health(name), "last_push_ms")) == self.now_ms()

    def _half_open(self, name: str) -> None:
        self._due.discard(name)
        self._worker.now_ms = self.now_ms()
        self._announce(self._worker.half_open(name))

    def _show(self, replica: Replica, health: ProviderHealth) -> None:
        known = replica.records.get(health.name)
        if known is not None and known.supersedes(health):
            return
        replica.records[health.name] = health
        replica.view.table.candidates[health.name].here.heard(health.in_flight)
        replica.show(replica.alone.shown(health))
        wait = changes_in_ms(health, self.now_ms())
        if wait is not None:
            self._world.after(wait / 1000 + 0.001, partial(self._show, replica, health))
        if health.circuit_state is CircuitState.HALF_OPEN:
            if known is None or known.generation != health.generation:
                self.claim_soon(replica, health.name)
        else:
            replica.permits.in_hand[health.name].clear()

    # Permits

    def claim_soon(self, replica: Replica, name: str) -> None:
        self._world.after(ROUND_TRIP, partial(self._claim, replica, name))

    def _claim(self, replica: Replica, name: str) -> None:
        health, hand = replica.records[name], replica.permits.in_hand[name]
        if health.circuit_state is not CircuitState.HALF_OPEN or hand or replica not in self._replicas:
            return
        replica.store.now_ms = self.now_ms()
        if not self._claim_in(replica.store, replica, name):
            pause = self._draw.uniform(0.02, 0.06) * DEFAULTS.permit_ttl
            self._world.after(pause, partial(self._claim, replica, name))

    def _claim_in(self, store: Store, replica: Replica, name: str) -> bool:
        self._tokens += 1
        generation, held = store.claim(name, [f"t{self._tokens}"], TTL_MS)
        for token in held:
            until = self.monotonic() + DEFAULTS.permit_ttl / 2
            replica.permits.in_hand[name].append(Permit(name, token, generation, until, store))
        return bool(held)

    def _tick(self) -> None:
        for replica in self._replicas:
            for shown in replica.alone.decide([]):
                replica.show(shown)
            self._tend(replica)
            for name, candidate in replica.view.table.candidates.items():
                if candidate.under_way(self.monotonic()) != candidate.here.told:
                    self._send(replica, name, [])
        self._world.after(TICK, self._tick)

    def _tend(self, replica: Replica) -> None:
        now, permits = self.monotonic(), replica.permits
        for name, hand in permits.in_hand.items():
            if hand and now > (hand[0].until or 0.0):
                permits.hand_back(hand.popleft())
                pause = self._draw.uniform(0.05, 0.2) * DEFAULTS.permit_ttl
                self._world.after(pause, partial(self._claim, replica, name))
        if permits.running and now >= replica.renew_at:
            replica.renew_at, replica.store.now_ms = now + DEFAULTS.permit_ttl / 3, self.now_ms()
            for permit in permits.running.values():
                if not is_local(permit.generation):
                    replica.store.claim(permit.provider, [permit.token], TTL_MS)
        for candidate in replica.view.table.candidates.values():  # permits of its own, where only its view is half-open
            health = candidate.health
            on_trial = is_local(health.generation) and health.circuit_state is CircuitState.HALF_OPEN
            if on_trial and not permits.in_hand[health.name]:
                self._claim_in(replica.alone.store, replica, health.name)

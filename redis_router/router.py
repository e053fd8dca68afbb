"""Router: the door a gateway uses."""

import asyncio
import atexit
import logging
import os
import threading
import time
from collections.abc import Iterator
from functools import cache, partial
from typing import Any, Self
from weakref import WeakSet

from redis_router import table as tables
from redis_router.attempt import Attempt, Choice, Turn
from redis_router.checks import (
    check_count,
    check_flag,
    check_latency,
    check_name,
    check_seconds,
    check_weight,
)
from redis_router.circuit import HALF_OPEN, OPEN
from redis_router.connect import connect
from redis_router.engine import Engine
from redis_router.errors import InvalidArgument, NoProviderAvailable, RedisRefused, RouterError, UnknownProvider
from redis_router.herald import TransitionListener
from redis_router.metrics import CollectorRegistry, Metrics
from redis_router.model import (
    ANY_MODEL,
    Candidate,
    CircuitConfig,
    CircuitState,
    Outcome,
    Provider,
    ProviderHealth,
    RegisteredModel,
    Result,
)
from redis_router.names import process_name
from redis_router.store import Store
from redis_router.strategies import Strategy, resolve
from redis_router.worker import HealthChecker

log = logging.getLogger("redis_router")

_routers: "WeakSet[Router]" = WeakSet()


@cache
def _follow_forks() -> None:
    """gunicorn's preload, multiprocessing's fork: each child gets a link to the fleet of its own."""

    def after_in_child() -> None:
        for metrics in {id(each): each for each in (router._engine.metrics for router in _routers)}.values():
            metrics.start_anew()
        for router in list(_routers):
            router._after_fork()

    os.register_at_fork(after_in_child=after_in_child)


class Router:
    """Routes each request to one of several providers, with one circuit breaker for every replica of the gateway.

    redis          a URL (see `connect.connect`: redis://, redis+sentinel://, redis+cluster://, …) or a redis-py client
    strategy       latency, round_robin, weighted, availability, or an object with `prepare(model, candidates)`
    namespace      first part of every Redis key; routers of one namespace share their circuits
    circuit        thresholds for providers that this router registers first; a record that exists keeps its own
    replica        this process's name in logs and permits, for people; host and pid where not given
    registry       where the metrics go; prometheus_client's default registry where not given
    on_transition  called with each Transition this replica sees, on a background thread

    Durations are in seconds. `select_provider`, `record_result` and the attempts work in memory, never block and never
    raise because of Redis; they serve threads and asyncio alike. Raises InvalidArgument for what cannot be used.
    """

    def __init__(
        self,
        redis: Any,
        *,
        strategy: str | Strategy = "latency",
        namespace: str = "rr",
        circuit: CircuitConfig | None = None,
        replica: str | None = None,
        registry: CollectorRegistry | None = None,
        on_transition: TransitionListener | None = None,
        flush_interval: float = 0.02,
        push_interval: float = 0.5,
        refresh_interval: float = 30.0,
        permit_ttl: float = 5.0,
        safety_net_after: float = 5.0,
        buffer_limit: int = 10_000,
        result_ttl: float = 5.0,
    ) -> None:
        self._target = redis
        self._client = connect(redis)
        self._owns_client = isinstance(redis, str)
        self._circuit = CircuitConfig() if circuit is None else circuit
        if not isinstance(self._circuit, CircuitConfig):
            raise InvalidArgument(f"circuit is {circuit!r}: give a CircuitConfig")
        self._registry = registry
        self._checker: HealthChecker | None = None
        self._starting = threading.Lock()
        self.namespace = check_name("namespace", namespace)
        self._named = replica
        self.replica = check_name("replica", replica or process_name())
        if on_transition is not None and not callable(on_transition):
            raise InvalidArgument(f"on_transition is {on_transition!r}: give a function that takes a Transition")
        self._push_ms = round(check_seconds("push_interval", push_interval) * 1000)
        # a second instance for fallbacks: asking for them must not use up the turns of `select_provider`
        self._spare = resolve(strategy)
        self._new_engine = partial(
            Engine,
            strategy=resolve(strategy),
            flush_interval=check_seconds("flush_interval", flush_interval),
            refresh_interval=check_seconds("refresh_interval", refresh_interval),
            buffer_limit=check_count("buffer_limit", buffer_limit),
            result_ttl=check_seconds("result_ttl", result_ttl),
            permit_ttl=check_seconds("permit_ttl", permit_ttl),
            safety_net_after=check_seconds("safety_net_after", safety_net_after),
            on_transition=on_transition,
        )
        self._engine = self._new_engine(self._store(), Metrics.of(registry))
        self._view = self._engine.view
        _follow_forks()
        _routers.add(self)

    def _store(self) -> Store:
        return Store(self._client, self.namespace, self.replica, self._push_ms)

    def _after_fork(self) -> None:
        """In the child: threads and connections stayed with the parent, and so did what it has still to deliver."""
        parent = self._engine
        self._starting = threading.Lock()
        self._checker = None  # it runs on in the parent
        if self._owns_client:
            self._client = connect(self._target)
        self.replica = self._named or process_name()
        self._engine = self._new_engine(self._store(), parent.metrics)
        self._view = self._engine.view
        self._engine.take_over(parent)

    # Life

    def start(self) -> None:
        """Join the fleet and start the background threads; once is enough.

        Returns after the shared records were read, or at once where Redis is away: the router then starts with every
        circuit closed and joins when Redis is back. Raises RedisRefused for a wrong password or missing permission, and
        RouterError after `close()`. A router that is not closed when the interpreter exits is closed then.
        """
        with self._starting:
            self._check_open()
            if not self._engine.running:
                self._engine.start()
                atexit.register(self.close)

    def close(self, timeout: float = 2.0) -> None:
        """Hand back permits, bring what was recorded to Redis, end the threads; within about `timeout` seconds.

        For good: selecting goes on with the last table, so that calls under way can end, and everything that needs
        Redis raises RouterError.
        """
        deadline = time.monotonic() + timeout
        if self._checker is not None:
            self._checker.ask_to_stop()
        self._engine.stop(timeout)
        self.stop_health_checker(max(0.1, deadline - time.monotonic()))
        atexit.unregister(self.close)
        if self._owns_client:
            self._client.close()

    def _check_open(self) -> None:
        if self._engine.closed:
            raise RouterError("this router was closed: make a new one")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all recorded before is in Redis and in this replica's table; False where `timeout` s ran out."""
        return self._engine.flush(timeout)

    @property
    def redis_up(self) -> bool:
        """Is this replica in touch with Redis?"""
        return self._engine.link.up

    # Providers

    def register_provider(self, provider: Provider) -> None:
        """Route to this provider from now on. Its shared record is joined as it stands, never reset.

        After `start()` the record is joined in the background within milliseconds; `flush()` waits for it.
        """
        if not isinstance(provider, Provider):
            raise InvalidArgument(f"cannot register {provider!r}: give a Provider")
        self._check_open()
        self._engine.add(provider, self._circuit)

    def deregister_provider(self, name: str, *, everywhere: bool = False) -> None:
        """Stop routing to a provider here; `everywhere` deletes its shared record too, and every replica drops it.

        Raises UnknownProvider, and with `everywhere` RedisUnavailable or RedisRefused.
        """
        self._known(name)
        if everywhere:
            self._check_open()
            self._engine.store.deregister(name)
        self._engine.remove(name)

    def registered_models(self) -> list[RegisteredModel]:
        """The models that can be asked for, by name; each owned by the first provider, by name, that serves it."""
        owners: dict[str, str] = {}
        for name in sorted(self._view.table.candidates):
            for model in self._view.table.candidates[name].provider.models:
                if model != ANY_MODEL:
                    owners.setdefault(model, name)
        return [RegisteredModel(model, owners[model]) for model in sorted(owners)]

    # Routing

    def select_provider(self, model: str) -> Provider:
        """The provider to send the next request for this model to, by the router's strategy. In memory, O(1).

        Report the call with `record_result`; `attempt` does both and recognises late results.
        Raises NoProviderAvailable.
        """
        try:
            pick = self._view.table.picks.get(model)
        except TypeError:  # not hashable: no name
            pick = None
        if pick is not None:
            return pick().provider
        candidate, permit = self._choose(model)
        if permit is not None:
            self._engine.permits.await_report(permit)
        return candidate.provider

    def get_fallback_providers(self, model: str, primary: str | None = None) -> list[Provider]:
        """The other providers that may serve this model now, best first by the strategy; [] where there are none.

        Half-open providers are left out: they take only calls that hold a permit.
        """
        selector = self._view.table.find(model)
        if selector is None:
            return []
        rest = [c for c in selector.candidates if c.provider.name != primary and tables.is_routable(c.health)]
        found = []
        while rest:
            best = tables.pick_from(self._spare, selector.model, rest)
            rest.remove(best)
            found.append(best.provider)
        return found

    def attempt(self, model: str) -> Attempt:
        """One attempt: `with router.attempt(model) as attempt: call(attempt.provider)`. Raises NoProviderAvailable."""
        pick = self._view.table.picks.get(model) if type(model) is str else None
        if pick is not None:
            return Attempt(self._engine, pick(), None)
        return Attempt(self._engine, *self._choose(model))

    def attempts(self, model: str) -> Iterator[Turn]:
        """Attempts with one provider after the other, each tried once, until one succeeds.

            for attempt in router.attempts("gpt-4o"):
                with attempt:
                    answer = call(attempt.provider)

        An exception inside `with` counts as a failure; it is passed on when no other provider is left, else the next
        attempt begins. Raises NoProviderAvailable when there is no first one.
        """
        choose = partial(self._choose, model)
        attempt: Turn | None = Turn(self._engine, choose(), choose, frozenset())
        try:
            while attempt is not None:
                yield attempt
                attempt = attempt.next
        finally:
            if attempt is not None:  # the loop was left: what was chosen and not begun is given back
                attempt.discard()

    def _choose(self, model: str, tried: frozenset[str] = frozenset()) -> Choice:
        selector = self._view.table.find(model)
        if selector is not None:
            if selector.on_trial:
                trial = self._engine.trial(selector, tried)
                if trial is not None:
                    return trial
            if selector.pick is not None:
                if not tried:
                    return selector.pick(), None
                rest = [c for c in selector.candidates if c.provider.name not in tried and tables.is_routable(c.health)]
                if rest:
                    return tables.pick_from(self._spare, selector.model, rest), None
        raise self._nobody(model, selector)

    def _nobody(self, model: str, selector: tables.Selector | None) -> NoProviderAvailable:
        if selector is None:
            known = ", ".join(m.id for m in self.registered_models()[:10]) or "no provider is registered"
            return NoProviderAvailable(model, {}, hint=f"no provider serves it; registered: {known}")
        redis_now = self._engine.now_ms()
        reasons: dict[str, str] = {}
        waits: list[float] = []
        for candidate in selector.candidates:
            health, name = candidate.health, candidate.provider.name
            self._engine.want(name)
            if health.unavailable_reason == "operator":
                reasons[name] = "taken out of service by an operator"
            elif health.circuit_state is OPEN:
                waits.append(max(0.0, health.due_in_ms(redis_now) / 1000))
                reasons[name] = f"circuit open ({health.open_reason}), half-open in {waits[-1]:.1f} s"
            elif health.circuit_state is HALF_OPEN:
                reasons[name] = "circuit half-open, its trial calls are taken"
            elif not health.available:
                reasons[name] = f"unavailable ({health.unavailable_reason})"
            else:
                reasons[name] = "tried already"
        return NoProviderAvailable(model, reasons, min(waits, default=None))

    # Results

    def record_result(self, name: str, *, success: bool, latency_ms: float) -> None:
        """Report how a call to this provider went: its latency in ms, 0 where it was not measured.

        The result counts for the circuit's generation of this moment, and in half-open for the longest trial call that
        `select_provider` handed out; `attempt` remembers when the call began and whether it was one.
        Raises InvalidArgument and UnknownProvider, nothing else.
        """
        check_flag("success", success)
        latency_ms = check_latency(latency_ms)
        candidate = self._view.table.candidates.get(name)
        if candidate is None:
            if name in self._view.retired:
                self._engine.metrics.dropped("deregistered", 1)
                return
            raise self._unknown(name)
        generation = candidate.health.generation
        permit = self._engine.permits.reported(name, generation)
        outcome = Outcome.SUCCESS if success else Outcome.FAILURE
        token = "" if permit is None else permit.token
        self._engine.courier.put(Result(name, outcome, latency_ms, generation, token))

    # Health and settings

    def get_health_status(self) -> dict[str, ProviderHealth]:
        """Every registered provider's record as this replica knows it, all fields."""
        return {name: candidate.health for name, candidate in self._view.table.candidates.items()}

    def get_circuit_state(self, name: str) -> CircuitState:
        """The circuit of one provider as this replica knows it. Raises UnknownProvider."""
        return self._known(name).health.circuit_state

    def update_health(self, name: str, *, available: bool | None = None, weight: float | None = None) -> None:
        """Take a provider out of service or back in, or change its weight; at once for the whole fleet, in Redis.

        `available=False` holds until `available=True`: neither probes nor the circuit override an operator.
        Raises UnknownProvider, InvalidArgument, RedisUnavailable, RedisRefused.
        """
        self._known(name)
        fields = {}
        if available is not None:
            fields["available"] = str(int(check_flag("available", available)))
        if weight is not None:
            fields["weight"] = repr(check_weight(weight))
        if not fields:
            raise InvalidArgument(f"nothing to change for provider {name!r}: give available= or weight=")
        self._update(name, fields)

    def set_circuit_config(self, config: CircuitConfig, provider: str | None = None) -> None:
        """Change the thresholds of one provider, or of all that are registered here; at once for the whole fleet.

        Without `provider` it also holds for providers registered later. Before `start()` it sets what records that do
        not exist yet are made with. Raises as `update_health`.
        """
        if not isinstance(config, CircuitConfig):
            raise InvalidArgument(f"config is {config!r}: give a CircuitConfig")
        if provider is None:
            self._circuit = config
        else:
            self._known(provider)
        for name in list(self._view.providers) if provider is None else [provider]:
            self._view.configs[name] = config
            if self._engine.running or self._engine.closed:
                self._update(name, config.to_fields())

    def _update(self, name: str, fields: dict[str, str]) -> None:
        self._check_open()
        reply = self._engine.store.update(name, fields)
        if reply.health is None:
            raise RedisRefused(
                f"provider {name!r} has no record in Redis yet: call start(), or flush() after register_provider()"
            )
        self._engine.mirror.apply(reply.health)

    def start_health_checker(self, interval: float = 10.0, *, lease: float = 15.0) -> None:
        """Run the worker inside this replica, in the same election as every other; once is enough."""
        self._check_open()
        if self._checker is None:
            checker = HealthChecker(self._client, self.namespace, interval, lease, registry=self._registry)
            checker.start()
            self._checker = checker

    def stop_health_checker(self, timeout: float = 2.0) -> None:
        """End the worker inside this replica, within about `timeout` seconds; a lease it holds is free at once."""
        if self._checker is not None:
            self._checker.stop(timeout)
            self._checker = None

    def _known(self, name: str) -> Candidate:
        candidate = self._view.table.candidates.get(name)
        if candidate is None:
            raise self._unknown(name)
        return candidate

    def _unknown(self, name: str) -> UnknownProvider:
        known = ", ".join(sorted(self._view.table.candidates)) or "none"
        return UnknownProvider(f"unknown provider {name!r}: registered are {known}")

"""Router: the door a gateway uses."""

import asyncio
import atexit
import os
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, Generic, Self
from weakref import WeakSet

from redis_router.checks import check_flag, check_latency, check_name, check_names
from redis_router.circuit.config import CircuitConfig
from redis_router.circuit.machine import as_the_fleet_counts
from redis_router.circuit.outcome import Outcome
from redis_router.circuit.record import CircuitState, ProviderHealth
from redis_router.errors import InvalidArgument
from redis_router.operators import Operators
from redis_router.options import Options
from redis_router.provider import ANY_MODEL, ClientT, Provider, RegisteredModel
from redis_router.replica.engine import Engine
from redis_router.request.attempt import Attempt
from redis_router.request.attempts import Attempts, models_to_ask
from redis_router.request.chooser import Chooser
from redis_router.request.classify import Classifier, Judge
from redis_router.request.context import Context
from redis_router.request.deadline import Deadline
from redis_router.request.report import report
from redis_router.routing import choose
from redis_router.routing.strategies import Strategy, best_first
from redis_router.runtime.log import log
from redis_router.runtime.names import process_name
from redis_router.store.opening import open_store, open_target
from redis_router.telemetry.listeners import TransitionListener
from redis_router.telemetry.metrics import CollectorRegistry, Metrics
from redis_router.worker.checker import HealthChecker

_routers: "WeakSet[Router[Any]]" = WeakSet()


@cache
def _follow_forks() -> None:
    """gunicorn's preload, multiprocessing's fork: each child gets a link to the fleet of its own."""

    def after_in_child() -> None:
        for metrics in {id(each): each for each in (router._engine.metrics for router in _routers)}.values():
            metrics.start_anew()
        for router in list(_routers):
            router._after_fork()

    os.register_at_fork(after_in_child=after_in_child)


class Router(Generic[ClientT]):
    """Routes each request to one of several providers, with one circuit breaker for every replica of the gateway.

    redis          a URL (redis://, rediss://, unix://, redis+sentinel://, redis+cluster://) or a redis-py client; or
                   memory:// for a fleet within this process, without Redis: for a first try, for one process, and for
                   tests. Routers and workers share it; memory://name is another
    strategy       p2c, latency, round_robin, weighted, weighted_round_robin, availability, or an object with
                   `prepare(model, candidates)`
    namespace      first part of every Redis key; routers of one namespace share their circuits
    circuit        thresholds for providers that this router registers first; a record that exists keeps its own
    circuit_version  of these thresholds: where it is higher than the record's, they replace the record's, once, for the
                   fleet; raise it with a deploy that changes thresholds
    replica        this process's name in logs and permits, for people; host and pid where not given
    registry       where the metrics go; prometheus_client's default registry where not given
    on_transition  called with each Transition this replica sees, on a background thread
    classify       what an exception or a response means for the circuit: a function that returns a Verdict or Outcome,
                   or None for what `redis_router.classify` says
    rate_limit_cooldown      how long a rate limit holds that does not say for how long
    rate_limit_cooldown_max  the longest time of a rate limit that is believed
    when_all_open  "raise" NoProviderAvailable; "least_bad": route to the least bad provider all the same; "wait": let
                   `attempts` wait, as with its own `wait=True`
    max_ejection_percent  of a model's providers, so many at most are left out here for their circuit; 100 for all
    flush_interval     how long successes wait for company on their way to Redis
    push_interval      how often mere averages are pushed, for each provider over the fleet
    refresh_interval   between full re-reads of the records, with jitter
    permit_ttl         until a dead replica's half-open permits are free again
    safety_net_after   how long a circuit is overdue, and nobody leads, before a replica acts itself
    buffer_limit       results that may wait; beyond that they are dropped and counted
    result_ttl         results that wait longer, because Redis is away, are dropped and counted

    Durations are in seconds. `select_provider`, `record_result` and the attempts work in memory, never block and never
    raise because of Redis; they serve threads and asyncio alike. Raises InvalidArgument for what cannot be used.
    """

    def __init__(
        self,
        redis: Any,
        *,
        strategy: str | Strategy = "p2c",
        namespace: str = "rr",
        circuit: CircuitConfig | None = None,
        circuit_version: int = 0,
        replica: str | None = None,
        registry: CollectorRegistry | None = None,
        on_transition: TransitionListener | None = None,
        classify: Classifier | None = None,
        rate_limit_cooldown: float = 5.0,
        rate_limit_cooldown_max: float = 300.0,
        when_all_open: str = "raise",
        max_ejection_percent: float = 100.0,
        flush_interval: float = 0.02,
        push_interval: float = 0.5,
        refresh_interval: float = 30.0,
        permit_ttl: float = 5.0,
        safety_net_after: float = 5.0,
        buffer_limit: int = 10_000,
        result_ttl: float = 5.0,
    ) -> None:
        self.options = Options(
            strategy=strategy,
            namespace=namespace,
            circuit=CircuitConfig() if circuit is None else circuit,
            circuit_version=circuit_version,
            rate_limit_cooldown=rate_limit_cooldown,
            rate_limit_cooldown_max=rate_limit_cooldown_max,
            when_all_open=when_all_open,
            max_ejection_percent=max_ejection_percent,
            flush_interval=flush_interval,
            push_interval=push_interval,
            refresh_interval=refresh_interval,
            permit_ttl=permit_ttl,
            safety_net_after=safety_net_after,
            buffer_limit=buffer_limit,
            result_ttl=result_ttl,
        )
        self._named = replica
        self.replica = check_name("replica", replica or process_name())
        if on_transition is not None and not callable(on_transition):
            raise InvalidArgument(f"on_transition is {on_transition!r}: give a function that takes a Transition")
        self._listener = on_transition
        self._judge = Judge(classify, rate_limit_cooldown, rate_limit_cooldown_max)
        self._circuit = self.options.circuit
        self._further = best_first(strategy)
        self._target = redis
        self._client = open_target(redis)
        self._owns_client = isinstance(redis, str)
        self._registry = registry
        self._checker: HealthChecker | None = None
        self._starting = threading.RLock()
        self._use(Metrics.of(registry))
        _follow_forks()
        _routers.add(self)

    @property
    def namespace(self) -> str:
        """The first part of every Redis key."""
        return self.options.namespace

    def _use(self, metrics: Metrics) -> None:
        store = open_store(self._client, self.namespace, self.replica, round(self.options.push_interval * 1000))
        self._engine = Engine(store, metrics, self.options, self._listener)
        self._view = self._engine.view
        self._operators = Operators(self._engine, self.replica)
        self._rules = choose.Rules(self._further, self._engine.now_ms, self.options.least_bad)
        self._chooser = Chooser(self._engine, self._rules)
        self._context = Context(self._engine, self._chooser, self._judge, self._rules.monotonic)

    def _after_fork(self) -> None:
        """In the child: threads and connections stayed with the parent, and so did what it has still to deliver."""
        parent = self._engine
        self._starting = threading.RLock()
        self._checker = None  # it runs on in the parent
        if self._owns_client:
            self._client = open_target(self._target)
        self.replica = self._named or process_name()
        self._use(parent.metrics)
        self._engine.take_over(parent)

    # Life

    def start(self) -> None:
        """Join the fleet and start the background threads; once is enough.

        Returns after the shared records were read, or at once where Redis is away: the router then starts with every
        circuit closed and joins when Redis is back. Raises RedisRefused for a wrong password or missing permission, and
        RouterError after `close()`. A router that is not closed when the interpreter exits is closed then.
        """
        with self._starting:
            self._operators.check_open()
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

    def register_provider(self, provider: Provider[ClientT]) -> None:
        """Route to this provider from now on. Its shared record is joined as it stands, never reset.

        After `start()` the record is joined in the background within milliseconds; `flush()` waits for it.
        """
        if not isinstance(provider, Provider):
            raise InvalidArgument(f"cannot register {provider!r}: give a Provider")
        self._operators.check_open()
        parts = {part.name: part for part in provider.parts()}
        for part in parts.values():
            known = self._engine.served.providers.get(part.name)
            if known is not None and known.whole.name != provider.name:
                raise InvalidArgument(
                    f"provider {provider.name!r} would share the record {part.name!r} with provider"
                    f" {known.whole.name!r}: give one of them another name"
                )
        retries = getattr(provider.client, "max_retries", 0)
        if isinstance(retries, int) and retries > 0:
            log.warning(
                "the client of provider %s tries again %d times by itself: make it with max_retries=0, or a request"
                " reaches the next provider late, and the circuit hears of failures late",
                provider.name,
                retries,
            )
        old = [name for name in self._engine.served.records_of(provider.name) if name not in parts]
        self._engine.add(list(parts.values()), self._circuit)
        for name in old:  # registered again, for other models; after the new ones, so that none is without a provider
            self._engine.remove(name)

    def deregister_provider(self, name: str, *, everywhere: bool = False) -> None:
        """Stop routing to a provider here; `everywhere` deletes its shared record too, and every replica drops it.

        Then it need not be registered here, and its log of events stays for a week.
        Raises UnknownProvider, and with `everywhere` RedisUnavailable or RedisRefused.
        """
        self._operators.deregister(name, everywhere=everywhere)

    def registered_models(self) -> list[RegisteredModel]:
        """The models that can be asked for, by name; each owned by the first provider, by name, that serves it."""
        owners: dict[str, str] = {}
        candidates = self._view.table.candidates
        for name in sorted(candidates):
            provider = candidates[name].provider
            for model in provider.models:
                if model != ANY_MODEL:
                    owners.setdefault(model, provider.name)
        return [RegisteredModel(model, owners[model]) for model in sorted(owners)]

    # Routing

    def select_provider(self, model: str) -> Provider[ClientT]:
        """The provider to send the next request for this model to, by the router's strategy. In memory, O(1).

        Report the call with `record_result`; `attempt` does both and recognises late results.
        Raises NoProviderAvailable.
        """
        try:
            pick = self._view.picks.get(model)
        except TypeError:  # not hashable: no name
            pick = None
        if pick is not None:
            candidate = pick()
            if not candidate.here.limited_until or candidate.here.is_free(time.monotonic()):
                return candidate.provider
        candidate, permit, _ = self._chooser.choose((model,))
        if permit is not None:
            self._engine.permits.await_report(permit)
        return candidate.provider

    def get_fallback_providers(self, model: str, primary: str | None = None) -> list[Provider[ClientT]]:
        """The other providers that may serve this model now, best first by the strategy; [] where there are none.

        Half-open providers are left out: they take only calls that hold a permit.
        """
        return [candidate.provider for candidate in choose.fallbacks(self._view.table, model, primary, self._rules)]

    def attempt(self, model: str, *, exclude: Collection[str] = ()) -> Attempt[ClientT]:
        """One attempt: `with router.attempt(model) as attempt: call(attempt.provider)`.

        `exclude` names providers that are not to be asked, for loops of one's own. Raises NoProviderAvailable.
        """
        if exclude != ():
            check_names("exclude", exclude)
        pick = self._view.picks.get(model) if type(model) is str and not exclude else None
        if pick is not None:
            candidate = pick()
            if not candidate.here.limited_until or candidate.here.is_free(time.monotonic()):
                return Attempt(self._context, candidate, None, model)
        without = self._view.table.records_of(model, exclude) if exclude else ()
        return Attempt(self._context, *self._chooser.choose((model,), excluded=without))

    def attempts(
        self,
        model: str,
        *,
        max_attempts: int | None = None,
        deadline: float | None = None,
        attempt_timeout: float | None = None,
        first_token_timeout: float | None = None,
        fallbacks: Mapping[str, Sequence[str]] | None = None,
        wait: bool | None = None,
    ) -> Attempts[ClientT]:
        """Attempts with one provider after the other, each tried once, until one succeeds::

            for attempt in router.attempts("gpt-4o", deadline=20.0, fallbacks={"gpt-4o": ["claude-sonnet"]}):
                with attempt:
                    answer = call(attempt.provider, attempt.model, timeout=attempt.timeout)

        An exception inside `with` that counts as a failure or a rate limit is held back while another provider is
        left: best first by the strategy, then those of the fallback models. The last one is passed on, with what came
        before it as notes. What says nothing about the provider (a bad request, a cancellation) is passed on at once,
        and so is everything after `attempt.first_token()`: an answer that has begun is not continued by somebody else.

        max_attempts  calls at most; None for as many as there are providers
        deadline      seconds from now for the whole request: after it no further attempt begins
        attempt_timeout      seconds for each call as a whole; None for a share of the deadline: half of what is left
                             while another provider may follow, all of it for the last one
        first_token_timeout  seconds for each call until `attempt.first_token()`, for streams; then in place of a share
        fallbacks     model -> models to ask for instead, in this order
        wait          where nobody may be called, wait for the first to come back, until the deadline or for a minute;
                      in asyncio write `async for`. None for what `when_all_open` says

        `attempt.timeout` says how many seconds are left for a call by all of these: give it to the client, or to
        `asyncio.timeout` inside the block. A call that used them up and did not answer is a failure of the provider,
        and the next one is tried while there is time. One that was given less than its share is ignored.

        Raises InvalidArgument at once, NoProviderAvailable when there is no first attempt.
        """
        return Attempts(
            self._context,
            models_to_ask(model, fallbacks),
            max_attempts=max_attempts,
            deadline=Deadline(deadline, attempt_timeout, first_token_timeout),
            wait=self.options.when_all_open == "wait" if wait is None else check_flag("wait", wait),
            must_wait=wait is True,
        )

    # Results

    def record_result(
        self,
        name: str,
        *,
        success: bool | None = None,
        latency_ms: float | None = None,
        model: str | None = None,
        reason: str = "",
        outcome: Outcome | str | None = None,
        cooldown: float | None = None,
    ) -> None:
        """Report how a call to this provider went.

        success     did it go well? Or say `outcome`: "success", "failure", "rate_limited" or "ignored"
        latency_ms  how long it took, in ms; 0 where that was not measured. Not needed for a rate limit or to ignore
        model       for a provider with `circuit_per_model`
        reason      in one word, why a call failed
        cooldown    of a rate limit: seconds for which the provider wants no calls; None for `rate_limit_cooldown`

        The result counts for the circuit's generation of this moment, and in half-open for the longest trial call that
        `select_provider` handed out; `attempt` remembers when the call began and whether it was one.
        Raises InvalidArgument and UnknownProvider, nothing else.
        """
        said = self._judge.said(success, outcome, reason, cooldown)
        if latency_ms is not None:
            latency_ms = check_latency(latency_ms)
        report(self._context, name, model, said, latency_ms, keeps_bad=self.options.keeps_bad)

    # Health and settings

    def get_health_status(self) -> dict[str, ProviderHealth]:
        """Every registered provider's record as this replica knows it, all fields.

        By the record's name: a provider with `circuit_per_model` has one for each model, `name/model`.
        """
        found = {name: candidate.health for name, candidate in self._view.table.candidates.items()}
        return {name: as_the_fleet_counts(health) for name, health in found.items()}

    def get_circuit_state(self, name: str, model: str | None = None) -> CircuitState:
        """The circuit of one provider as this replica knows it; of its model, with `circuit_per_model`.

        Raises UnknownProvider, and InvalidArgument where `model` is missing.
        """
        records = self._operators.records(
            name if model is None or name in self._view.table.candidates else f"{name}/{model}"
        )
        if len(records) > 1:
            raise InvalidArgument(f"provider {name!r} has a circuit for each model: give model=")
        return self._view.table.candidates[records[0]].health.circuit_state

    def update_health(self, name: str, *, available: bool | None = None, weight: float | None = None) -> None:
        """Take a provider out of service or back in, or change its weight; at once for the whole fleet, in Redis.

        `available=False` holds until `available=True`: neither probes nor the circuit override an operator.
        `available=True` also ends a rate limit's cooldown. The provider need not be registered here. It waits for
        Redis, and for the record of a provider that was registered a moment ago.
        Raises UnknownProvider, InvalidArgument, RedisUnavailable, RedisRefused.
        """
        self._operators.update_health(name, available, weight)

    def set_circuit_config(self, config: CircuitConfig, provider: str | None = None) -> None:
        """Change the thresholds of one provider, or of all that are registered here; at once for the whole fleet.

        Without `provider` it also holds for those registered here later. Before `start()` it sets what records that do
        not exist yet are made with. One that is named need not be registered here. Waits and raises as `update_health`.
        """
        if not isinstance(config, CircuitConfig):
            raise InvalidArgument(f"config is {config!r}: give a CircuitConfig")
        if provider is None:
            self._circuit = config
        if not self._operators.set_circuit_config(config, provider):
            log.warning("no provider is registered here: these thresholds hold for later ones; name one of the fleet")

    def start_health_checker(self, interval: float = 10.0, *, lease: float = 15.0) -> None:
        """Run the worker inside this replica, in the same election as every other; once is enough."""
        with self._starting:
            self._operators.check_open()
            if self._checker is None:
                checker = HealthChecker(self._client, self.namespace, interval, lease, registry=self._registry)
                checker.start()
                self._checker = checker

    def stop_health_checker(self, timeout: float = 2.0) -> None:
        """End the worker inside this replica, within about `timeout` seconds; a lease it holds is free at once."""
        with self._starting:
            checker, self._checker = self._checker, None
        if checker is not None:
            checker.stop(timeout)

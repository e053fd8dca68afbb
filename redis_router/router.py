"""Router: the door a gateway uses."""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Generic

from redis_router.checks import check_flag, check_latency, check_names
from redis_router.circuit.config import RECOMMENDED, CircuitConfig
from redis_router.circuit.outcome import Outcome
from redis_router.errors import InvalidArgument
from redis_router.lifecycle import Lifecycle
from redis_router.operators import Operated
from redis_router.options import Options
from redis_router.provider import ANY_MODEL, ClientT, Provider, RegisteredModel
from redis_router.request.attempt import Attempt
from redis_router.request.attempts import Attempts, models_to_ask
from redis_router.request.classify import Classifier, Verdicts
from redis_router.request.deadline import Deadline
from redis_router.request.report import report
from redis_router.routing import choose
from redis_router.routing.strategies import Strategy
from redis_router.runtime.log import log
from redis_router.telemetry.listeners import TransitionListener
from redis_router.telemetry.metrics import CollectorRegistry


class Router(Lifecycle, Operated, Generic[ClientT]):
    """Routes each request to one of several providers, with one circuit breaker for every replica of the gateway.

    redis          a URL (redis://, rediss://, unix://, redis+sentinel://, redis+cluster://) or a redis-py client; or
                   memory:// for a fleet within this process, without Redis: for a first try, for one process, and for
                   tests. Routers and workers share it; memory://name is another
    strategy       adaptive, p2c, latency, round_robin, weighted, weighted_round_robin, availability, or an object with
                   `prepare(model, candidates)`
    namespace      first part of every Redis key; routers of one namespace share their circuits
    circuit        thresholds for providers that this router registers first, `RECOMMENDED` where not given; a record
                   that exists keeps its own
    circuit_version  of these thresholds: where it is higher than the record's, they replace the record's, once, for the
                   fleet; raise it with a deploy that changes thresholds
    observe        providers that this router registers first begin under the override `observe`, for ever: the rules
                   move no calls, and the log and metrics tell what would have happened, until `end_override`
    replica        this process's name in logs and permits, for people; host and pid where not given
    registry       where the metrics go; prometheus_client's default registry where not given
    on_transition  called with each Transition this replica sees, on a background thread
    classify       what an exception or a response means for the circuit: a function that returns a Verdict or Outcome,
                   or None for what `redis_router.classify` says
    rate_limit_cooldown      how long a rate limit holds that does not say for how long
    rate_limit_cooldown_max  the longest time of a rate limit that is believed
    when_all_open  "panic": call those all the same that were seen to answer since their circuit opened, and raise
                   NoProviderAvailable where there are none; "raise" it at once; "least_bad": call the least bad one,
                   however bad; "wait": let `attempts` wait, as with its own `wait=True`
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
        strategy: str | Strategy = "adaptive",
        namespace: str = "rr",
        circuit: CircuitConfig | None = None,
        circuit_version: int = 0,
        observe: bool = False,
        replica: str | None = None,
        registry: CollectorRegistry | None = None,
        on_transition: TransitionListener | None = None,
        classify: Classifier | None = None,
        rate_limit_cooldown: float = 1.0,
        rate_limit_cooldown_max: float = 300.0,
        when_all_open: str = "panic",
        max_ejection_percent: float = 100.0,
        flush_interval: float = 0.02,
        push_interval: float = 0.5,
        refresh_interval: float = 30.0,
        permit_ttl: float = 5.0,
        safety_net_after: float = 5.0,
        buffer_limit: int = 10_000,
        result_ttl: float = 5.0,
    ) -> None:
        options = Options(
            strategy=strategy,
            namespace=namespace,
            circuit=RECOMMENDED if circuit is None else circuit,
            circuit_version=circuit_version,
            observe=observe,
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
        if on_transition is not None and not callable(on_transition):
            raise InvalidArgument(f"on_transition is {on_transition!r}: give a function that takes a Transition")
        verdicts = Verdicts(classify, rate_limit_cooldown, rate_limit_cooldown_max)
        self._circuit = options.circuit
        super().__init__(redis, options, verdicts, replica, registry, on_transition)

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

    def available_providers(self, model: str) -> list[Provider[ClientT]]:
        """The providers that may serve this model now, in the order of registration; [] where there are none.

        Without half-open ones, as `get_fallback_providers`, and quicker: nothing is ordered.
        """
        return [candidate.provider for candidate in choose.available(self._view.table, model, self._rules)]

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

    def attempt_at(self, name: str, model: str) -> Attempt[ClientT]:
        """One attempt at this provider, whatever its state: for callers whose choice was made by somebody else.

        In half-open it takes a permit where one is in hand. A call that should not be made (the circuit is open, or
        half-open without a permit; drained) moves the averages and no circuit. Raises UnknownProvider.
        """
        return Attempt(self._context, *self._chooser.at(name, model))

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
        cooldown    of a rate limit: seconds for which the provider wants no calls; None for `rate_limit_cooldown`. Of a
                    success: the same, where the provider said that nothing is left of a limit

        The result counts for the circuit's generation of this moment, and in half-open for the longest trial call that
        `select_provider` handed out; `attempt` remembers when the call began and whether it was one.
        Raises InvalidArgument and UnknownProvider, nothing else.
        """
        said = self._verdicts.said(success, outcome, reason, cooldown)
        if latency_ms is not None:
            latency_ms = check_latency(latency_ms)
        report(self._context, name, model, said, latency_ms, self.options)

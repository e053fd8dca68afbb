"""One call to one provider: timed, classified, and recorded."""

import math
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Generic, Literal, Self
from weakref import finalize

from redis_router.checks import check_latency
from redis_router.circuit.generations import NO_GENERATION, fleet_generation
from redis_router.circuit.outcome import TOLD_BEFORE, Outcome, Result, made
from redis_router.errors import RouterError
from redis_router.provider import ClientT, Provider
from redis_router.replica.permits import Permit
from redis_router.request.classify import SUCCESS, TIMED_OUT, Verdict, Waited
from redis_router.request.context import Context
from redis_router.routing.candidate import Candidate

_NO_HEADERS: Mapping[str, str] = {}


class Attempt(Generic[ClientT]):
    """One call to one provider: timed, and recorded with the generation in which it began and the permit it holds.

    A normal end of the `with` block is a success; what an exception means is up to `classify`. Where the code knows
    better it says so: `fail`, `rate_limited`, `ignore`, `succeed`, or `classify` with a response. The last word counts.
    Good for one call: entering it again raises RouterError.

    Make the clients without retries of their own (openai, anthropic: `max_retries=0`): an SDK that waits and tries
    again by itself keeps the request from the next provider, and hides the failures from the circuit.
    """

    __slots__ = (
        "__weakref__",
        "_candidate",
        "_context",
        "_first_token",
        "_latency_ms",
        "_load",
        "_permit",
        "_started",
        "_verdict",
        "model",
    )

    def __init__(self, context: Context, candidate: Candidate, permit: Permit | None, model: str) -> None:
        self._context = context
        self._candidate = candidate
        self._permit = permit
        self._started = 0.0
        self._load = 0.0
        self._first_token: float | None = None
        self._latency_ms: float | None = None
        self._verdict: Verdict | None = None
        if permit is not None:  # a trial call that is never made must not block those of others
            finalize(self, context.engine.permits.abandon, permit).atexit = False
        self.model = model
        """What to ask this provider for: the model asked for, or a fallback."""

    @property
    def provider(self) -> Provider[ClientT]:
        """Where to send this call."""
        return self._candidate.provider.whole

    @property
    def record(self) -> str:
        """The name of the record that this call counts for: the provider's, or that of its circuit for this model."""
        return self._candidate.health.name

    @property
    def permit(self) -> str | None:
        """The half-open permit this call holds, None for an ordinary call."""
        return self._permit.token if self._permit is not None else None

    @property
    def generation(self) -> int:
        """The circuit's generation in which this call was chosen."""
        of = self._candidate.health if self._permit is None else self._permit
        return fleet_generation(of.generation)

    @property
    def timeout(self) -> float | None:
        """Seconds left for this call, above 0, for the client's own time-out; None where nothing bounds it.

        One of `Router.attempts` has a share of the deadline: see there.
        """
        return None

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline of `Router.attempts`, at least 0; None where there is none."""
        return None

    @property
    def headers(self) -> Mapping[str, str]:
        """To send with this call, so that the provider's own spans join the trace; empty where nobody traces."""
        return _NO_HEADERS

    @property
    def verdict(self) -> Verdict | None:
        """What was recorded when the block ended; before that what the code said, None where it said nothing."""
        return self._verdict

    def hand_over(self) -> None:
        """Another function, task or thread ends this block: what was set for this one, such as a span, is taken back.

        For blocks that are no `with`; where nobody traces there is nothing to take back.
        """

    def discard(self) -> None:
        """Give the permit back, where the call never began."""
        if self._started == 0.0 and self._permit is not None:
            self._context.engine.permits.hand_back(self._permit)
            self._without_permit()

    def _without_permit(self) -> None:
        """Where it is entered all the same, it moves the averages and no circuit."""
        old = self._candidate
        self._permit = None
        self._candidate = Candidate(old.provider, replace(old.health, generation=NO_GENERATION), old.here)

    @property
    def was_used(self) -> bool:
        """Did the `with` block begin?"""
        return self._started != 0.0

    @property
    def has_begun_to_answer(self) -> bool:
        """Was the first token passed on?"""
        return self._first_token is not None

    # Verdicts, while the call runs

    def succeed(self, latency_ms: float | None = None) -> None:
        """The provider did well, however the block ends; `latency_ms` in place of the time measured."""
        self._latency_ms = None if latency_ms is None else check_latency(latency_ms)
        self._verdict = SUCCESS

    def fail(self, reason: str = "") -> None:
        """The provider failed, however the block ends; `reason` is one word for operators."""
        self._verdict = self._context.verdicts.bounded(Verdict(Outcome.FAILURE, reason))

    def rate_limited(self, cooldown: float | None = None) -> None:
        """The provider wants no calls for `cooldown` seconds; None for the router's `rate_limit_cooldown`."""
        self._verdict = self._context.verdicts.bounded(Verdict(Outcome.RATE_LIMITED, cooldown=cooldown))

    def ignore(self) -> None:
        """This call says nothing about the provider, however the block ends."""
        self._verdict = Verdict(Outcome.IGNORED)

    def classify(self, response: object) -> Verdict:
        """Let the classifier decide on a response, for clients that do not raise; returns what it said."""
        self._verdict = self._context.verdicts(response)
        return self._verdict

    def first_token(self) -> None:
        """The answer begins, and is passed on: from here on no other provider continues it.

        What fails afterwards is counted, and raised by the `with` block. The averages take the time until now, so that
        a long answer is not a slow provider; the whole duration goes into the metrics. Only the first call counts.
        """
        if self._first_token is None:
            self._first_token = self._context.now()
            here = self._candidate.here
            here.answered_at = self._first_token
            if id(self) in here.in_flight:
                here.in_flight[id(self)] = math.inf
            name, latency_ms = self._candidate.health.name, (self._first_token - self._started) * 1000
            begun = (name, Outcome.BEGUN, latency_ms, NO_GENERATION, "", "", 0.0, 0.0, self._load)
            self._context.engine.outbox.put(made(Result, begun))

    # The call

    def __enter__(self) -> Self:
        if self._started:
            raise RouterError("this attempt was used already: ask the router for another")
        if self._permit is not None:
            if self._permit.is_over:
                self._without_permit()
            else:
                self._permit.until = None  # renewed for as long as the call runs
        here = self._candidate.here
        self._started = here.in_flight[id(self)] = self._context.now()
        self._load = len(here.in_flight) + here.elsewhere
        if self._candidate.health.calls_per_s:
            self._keep_pace()
        return self

    def _keep_pace(self) -> None:
        """Nobody makes the next call before its time: this replica from now on, the others as soon as they hear."""
        here, health = self._candidate.here, self._candidate.health
        here.limited_until = max(here.limited_until, self._started + health.pause_ms / 1000)
        paced = (health.name, Outcome.PACED, 0.0, NO_GENERATION, "", "", 0.0, health.pause_ms, self._load)
        self._context.engine.outbox.put(made(Result, paced))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False] | bool:
        duration = self._context.now() - self._started
        self._candidate.here.in_flight.pop(id(self), None)
        verdict = self._verdict
        if verdict is None:
            verdict = self._verdict = (
                SUCCESS if error is None else self._context.verdicts(error, self._waited(duration))
            )
        self._record(verdict, duration * 1000)
        return self._goes_on(verdict, error)

    def _waited(self, duration: float) -> Waited:
        return Waited(duration, self._share(), self._candidate.health.latency_ms / 1000)

    def _share(self) -> float:
        """Seconds that this call had, before its first token; infinite where nobody gave it a share."""
        return math.inf

    def _record(self, verdict: Verdict, duration_ms: float) -> None:
        engine, candidate, permit, token = self._context.engine, self._candidate, self._permit, ""
        outcome, reason, cooldown = verdict
        generation, latency_ms, load = candidate.health.generation, duration_ms, self._load
        if permit is not None:
            generation, token = permit.generation, engine.permits.done(permit).token
        if verdict == TIMED_OUT:
            latency_ms = 0.0  # averages are of answers: how long a hang was waited for says nothing about them
        elif self._first_token is not None:
            latency_ms, load = (self._first_token - self._started) * 1000, TOLD_BEFORE
        elif outcome is Outcome.SUCCESS:
            candidate.here.answered_at = self._started + duration_ms / 1000
        if self._latency_ms is not None:
            latency_ms = self._latency_ms
        if cooldown is not None:
            candidate.here.limited_until = max(candidate.here.limited_until, self._context.now() + cooldown)
        name, cooldown_ms = candidate.health.name, (cooldown or 0.0) * 1000
        result = (name, outcome, latency_ms, generation, token, reason, duration_ms, cooldown_ms, load)
        engine.outbox.put(made(Result, result))

    def _goes_on(self, verdict: Verdict, error: BaseException | None) -> bool:
        """Is there another attempt, so that the error is not passed on?"""
        return False

"""One call to one provider, timed and recorded; and the turns of a request that may try several providers."""

from collections.abc import Callable
from time import perf_counter
from types import TracebackType
from typing import Literal, Self

from redis_router.engine import Engine
from redis_router.errors import NoProviderAvailable, RouterError
from redis_router.model import Candidate, Outcome, Provider, Result
from redis_router.permits import Permit

Choice = tuple[Candidate, Permit | None]

_SUCCESS = Outcome.SUCCESS
_tuple = tuple.__new__  # a named tuple's own constructor costs twice as much


class Attempt:
    """One call to one provider: timed, and recorded with the generation in which it began and the permit it holds.

    A normal end of the `with` block is a success, an Exception a failure. A cancellation (any other BaseException)
    says nothing about the provider: it is recorded as ignored. Good for one call: entering it again raises RouterError.
    """

    __slots__ = ("_candidate", "_engine", "_permit", "_started")

    def __init__(self, engine: Engine, candidate: Candidate, permit: Permit | None) -> None:
        self._engine = engine
        self._candidate = candidate
        self._permit = permit
        self._started = 0.0

    @property
    def provider(self) -> Provider:
        """Where to send this call."""
        return self._candidate.provider

    @property
    def permit(self) -> str | None:
        """The half-open permit this call holds, None for an ordinary call."""
        return self._permit.token if self._permit is not None else None

    @property
    def generation(self) -> int:
        """The circuit's generation in which this call was chosen."""
        return self._candidate.health.generation if self._permit is None else self._permit.generation

    def discard(self) -> None:
        """Give the permit back, where the call never began."""
        if self._started == 0.0 and self._permit is not None:
            self._engine.permits.hand_back(self._permit)
            self._permit = None

    def __enter__(self) -> Self:
        if self._started:
            raise RouterError("this attempt was used already: ask the router for another")
        if self._permit is not None:
            self._permit.until = None  # renewed for as long as the call runs
        self._started = perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False] | bool:
        latency_ms = (perf_counter() - self._started) * 1000
        if kind is None:
            self._record(_SUCCESS, latency_ms)
            return False
        if not issubclass(kind, Exception):
            self._record(Outcome.IGNORED, latency_ms)
            return False
        self._record(Outcome.FAILURE, latency_ms)
        return self._goes_on()

    def _record(self, outcome: Outcome, latency_ms: float) -> None:
        engine, health, permit, token = self._engine, self._candidate.health, self._permit, ""
        generation = health.generation
        if permit is not None:
            generation, token = permit.generation, engine.permits.done(permit).token
        engine.courier.put(_tuple(Result, (health.name, outcome, latency_ms, generation, token)))

    def _goes_on(self) -> bool:
        """Is there another attempt, so that the error is not passed on?"""
        return False


class Turn(Attempt):
    """An attempt that is followed by one with another provider where it fails, as long as there is one.

    `choose` is given the names of the providers that were tried, and raises NoProviderAvailable.
    """

    __slots__ = ("_choose", "_tried", "next")

    def __init__(
        self, engine: Engine, choice: Choice, choose: Callable[[frozenset[str]], Choice], tried: frozenset[str]
    ) -> None:
        super().__init__(engine, *choice)
        self._choose = choose
        self._tried = tried
        self.next: Turn | None = None

    def discard(self) -> None:
        """Give the permit back, this attempt's and the next one's, where the call never began."""
        super().discard()
        if self.next is not None:
            self.next.discard()

    def _goes_on(self) -> bool:
        tried = self._tried | {self._candidate.provider.name}
        try:
            choice = self._choose(tried)  # now, so that the error in hand is passed on where there is none
        except NoProviderAvailable:
            return False
        self.next = Turn(self._engine, choice, self._choose, tried)
        return True

"""When spans begin and end, and where they are the current ones.

The attempt's span is the current one inside its block until the answer is passed on: from `first_token()`, or where
another function ends the block, the caller's is current again. So no generator and no stream leaves one behind.
"""

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from redis_router import Attempt, Attempts, NoProviderAvailable
from redis_router.integrations.opentelemetry import spans
from redis_router.integrations.opentelemetry.place import Place
from redis_router.integrations.opentelemetry.spans import OpenSpan, Spans

_W3C = TraceContextTextMapPropagator()


class Request:
    """A request's span: it ends with its last attempt, or with the loop where no attempt is under way."""

    def __init__(self, made_by: Spans, model: str) -> None:
        self._model = model
        self._opened = made_by.request(model)
        self.context = trace.set_span_in_context(self._opened.span)
        self._begun = 0
        self._under_way = 0
        self._is_left = False
        self._last: Attempt[Any] | None = None
        self._error: BaseException | None = None

    def begins(self, attempt: Attempt[Any]) -> int:
        """An attempt begins; returns which one it is."""
        if self._begun == 0:
            spans.name_after(self._opened.span, self._model)
        self._begun += 1
        self._under_way += 1
        self._opened.records.add(attempt.record)
        return self._begun

    def ended(self, attempt: Attempt[Any], error: BaseException | None, *, goes_on: bool) -> None:
        """An attempt ended. Another one may follow while the loop runs."""
        self._last = attempt
        self._error = None if goes_on else error
        self._under_way -= 1
        if self._is_left or not goes_on:
            self._end()

    def __enter__(self) -> Self:
        """The loop begins."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        self.left(error)

    def left(self, error: BaseException | None) -> None:
        """The loop ended: by itself, by what it raised, or by who left it."""
        if isinstance(error, NoProviderAvailable):
            spans.say_nobody(self._opened.span, error)
        if isinstance(error, Exception):
            self._error = error
        self._is_left = True
        if not self._under_way:
            self._end()

    def _end(self) -> None:
        more: dict[str, Any] = {"redis_router.attempts": self._begun}
        verdict = None
        if self._last is not None:
            verdict = self._last.verdict
            more["redis_router.provider"] = self._last.provider.name
            more["redis_router.model"] = self._last.model
        self._opened.end(verdict, self._error, more)


class TracedAttempt:
    """An Attempt with a span from the beginning of its block to the end; everything else is the attempt's own."""

    __slots__ = ("_attempt", "_made_by", "_opened", "_place", "_request", "_started")

    def __init__(self, attempt: Attempt[Any], made_by: Spans, request: Request | None = None) -> None:
        self._attempt = attempt
        self._made_by = made_by
        self._request = request
        self._opened: OpenSpan | None = None
        self._place: Place | None = None
        self._started = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attempt, name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """For `isinstance`: it stands for an Attempt."""
        return type(self._attempt)

    @property
    def headers(self) -> Mapping[str, str]:
        """`traceparent` for a provider that may have it, while the block runs."""
        carrier: dict[str, str] = {}
        if self._opened is not None and self._made_by.reaches(self._attempt.provider.name):
            _W3C.inject(carrier, trace.set_span_in_context(self._opened.span, Context()))  # no baggage
        return carrier

    def first_token(self) -> None:
        """As the attempt's own; the caller's span is current again."""
        if not self._attempt.has_begun_to_answer and self._opened is not None:
            spans.say_first_token(self._opened.span, time.perf_counter() - self._started)
        self._attempt.first_token()
        self.hand_over()

    def hand_over(self) -> None:
        """What was current before the block is so again."""
        if self._place is not None:
            self._place.leave()

    def __enter__(self) -> Self:
        self._attempt.__enter__()
        request, self._started = self._request, time.perf_counter()
        number, parent = (1, None) if request is None else (request.begins(self._attempt), request.context)
        self._opened = self._made_by.attempt(self._attempt, number, parent)
        if self._opened.span.get_span_context().is_valid:
            self._place = Place(self._opened.span)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool:
        self.hand_over()
        if self._opened is not None:
            self._opened.hear_no_more()
        goes_on = bool(self._attempt.__exit__(kind, error, where))
        if self._opened is not None:
            spans.say_raised(self._opened.span, error)
            self._opened.end(self._attempt.verdict, error, {})
        if self._request is not None:
            self._request.ended(self._attempt, error, goes_on=goes_on)
        return goes_on


class TracedAttempts:
    """Attempts whose loop has a span, and each of them one below it; everything else is the attempts' own."""

    def __init__(self, attempts: Attempts[Any], made_by: Spans, model: str) -> None:
        self._attempts = attempts
        self._made_by = made_by
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attempts, name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """For `isinstance`: it stands for Attempts."""
        return type(self._attempts)

    def __iter__(self) -> Iterator[TracedAttempt]:
        each = iter(self._attempts)
        try:
            with Request(self._made_by, self._model) as request:
                for attempt in each:
                    yield TracedAttempt(attempt, self._made_by, request)
        finally:
            each.close()  # type: ignore[attr-defined]

    async def __aiter__(self) -> AsyncIterator[TracedAttempt]:
        each = aiter(self._attempts)
        try:
            with Request(self._made_by, self._model) as request:
                async for attempt in each:
                    yield TracedAttempt(attempt, self._made_by, request)
        finally:
            await each.aclose()  # type: ignore[attr-defined]

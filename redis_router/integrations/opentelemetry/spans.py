"""The spans of one router: their names, attributes and events. What goes wrong in here never reaches a request.

No message of a client's exception goes into a span: SDKs put the provider's answer into it, which may quote a prompt
or a key.
"""

import traceback
from collections.abc import Callable, Collection, Mapping
from operator import attrgetter
from typing import Any
from weakref import ref

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, Status, StatusCode, TracerProvider

import redis_router
from redis_router import Attempt, InvalidArgument, NoProviderAvailable, Outcome, RouterError, Transition, Verdict
from redis_router.runtime.log import log

_MOST_CHARS, _MOST_REASONS, _MOST_FRAMES = 200, 50, 50


class OpenSpan:
    """A span until it ends: once, whoever ends it; where everybody forgot it, then.

    records  of the providers whose transitions it hears of
    """

    __slots__ = ("__weakref__", "_among", "records", "span")

    def __init__(self, span: Span, among: "dict[int, ref[OpenSpan]]", *records: str) -> None:
        self.span = span
        self.records = set(records)
        self._among = among
        if span.is_recording():
            among[id(self)] = ref(self)

    def hear_no_more(self) -> None:
        """Of transitions: what this call brings about itself comes at a moment when its span may have ended or not."""
        self.records.clear()

    def end(self, verdict: Verdict | None, error: BaseException | None, more: Mapping[str, Any]) -> None:
        """With what became of it."""
        if self._among.pop(id(self), None) is None:
            return
        try:
            self.span.set_attributes(dict(more))
            if verdict is not None:
                self.span.set_attribute("redis_router.outcome", verdict.outcome.value)
                if verdict.reason:
                    self.span.set_attribute("redis_router.reason", verdict.reason)
            if (kind := _error_type(verdict, error)) is not None:
                self.span.set_attribute("error.type", kind)
                self.span.set_status(Status(StatusCode.ERROR, _description(verdict, error)))
            self.span.end()
        except Exception as wrong:  # a span processor of the user's own
            log.warning("a span was lost: %r", wrong)

    def __del__(self) -> None:
        self.end(None, None, {})


class Spans:
    """Makes spans, and keeps those that are open, to tell them of transitions.

    propagate  names of the providers that are told of the trace; True for all
    listener   the user's own, which hears of each transition, too
    """

    def __init__(
        self,
        provider: TracerProvider | None,
        propagate: Collection[str] | bool,
        listener: Callable[[Transition], None] | None,
    ) -> None:
        if not isinstance(propagate, bool) and (isinstance(propagate, str) or not isinstance(propagate, Collection)):
            raise InvalidArgument(f"propagate is {propagate!r}: give names of providers, True or False")
        self._tracer = trace.get_tracer("redis_router", redis_router.__version__, provider)
        self._propagate = frozenset() if isinstance(propagate, bool) else frozenset(propagate)
        self._reaches_all = propagate is True
        self._listener = listener
        self._open: dict[int, ref[OpenSpan]] = {}

    def request(self, model: str) -> OpenSpan:
        """Of a request, below the caller's current span."""
        attributes = {"gen_ai.request.model": str(model)[:_MOST_CHARS]}
        return OpenSpan(self._started("request", None, SpanKind.INTERNAL, attributes), self._open)

    def attempt(self, attempt: Attempt[Any], number: int, parent: Context | None) -> OpenSpan:
        """Of an attempt, below its request; None as the parent for the caller's current span."""
        if parent is not None and not (above := trace.get_current_span(parent)).is_recording():
            return OpenSpan(above, self._open)  # the request is not sampled, and so are its attempts
        name = attempt.provider.name
        attributes = {
            "gen_ai.provider.name": name,
            "gen_ai.request.model": attempt.model[:_MOST_CHARS],
            "redis_router.provider": name,
            "redis_router.attempt": number,
        }
        if attempt.permit is not None:
            attributes["redis_router.half_open"] = True
        return OpenSpan(
            self._started(f"attempt {name}", parent, SpanKind.CLIENT, attributes), self._open, attempt.record
        )

    def reaches(self, provider: str) -> bool:
        """Is this provider told of the trace?"""
        return self._reaches_all or provider in self._propagate

    def _started(self, name: str, parent: Context | None, kind: SpanKind, attributes: dict[str, Any]) -> Span:
        try:
            return self._tracer.start_span(name, parent, kind, attributes)
        except Exception as wrong:  # a sampler or span processor of the user's own
            log.warning("no span was begun: %r", wrong)
            return INVALID_SPAN

    def changed(self, change: Transition) -> None:
        """Tell the spans that it concerns; then the user's listener."""
        told = {
            "redis_router.provider": change.provider,
            "redis_router.from_state": change.from_state.value,
            "redis_router.to_state": change.to_state.value,
            "redis_router.reason": change.reason,
            "redis_router.generation": change.generation,
            "redis_router.alone": change.alone,
        }
        for each in list(self._open.values()):
            opened = each()
            if opened is not None and change.provider in opened.records:
                opened.span.add_event("redis_router.transition", told)
        if self._listener is not None:
            self._listener(change)


def name_after(span: Span, model: str) -> None:
    """Name a request after its model. Only where somebody serves it: anybody may ask for any model."""
    span.update_name(f"request {model[:_MOST_CHARS]}")


def say_first_token(span: Span, seconds: float) -> None:
    """The answer began, so many seconds after the attempt."""
    span.add_event("redis_router.first_token")
    span.set_attribute("gen_ai.response.time_to_first_chunk", seconds)


def say_raised(span: Span, error: BaseException | None) -> None:
    """What left the block, without its message."""
    if isinstance(error, Exception) and span.is_recording():
        frames = "".join(traceback.format_tb(error.__traceback__, -_MOST_FRAMES))
        span.add_event("exception", {"exception.type": _name_of(error), "exception.stacktrace": frames})


def say_nobody(span: Span, error: NoProviderAvailable) -> None:
    """Why nobody could be asked, provider by provider."""
    if span.is_recording():
        reasons = [f"{name}: {why}" for name, why in list(error.reasons.items())[:_MOST_REASONS]]
        span.set_attribute("redis_router.reasons", reasons)
        if error.retry_after is not None:
            span.set_attribute("redis_router.retry_after", error.retry_after)


def _error_type(verdict: Verdict | None, error: BaseException | None) -> str | None:
    """None where nothing went wrong; a cancellation and a client that hangs up are nothing wrong."""
    if isinstance(error, RouterError):
        return error.code
    if isinstance(error, Exception):
        status = _status_of(error)
        return _name_of(error) if status is None else str(status)
    if verdict is not None and verdict.outcome in (Outcome.FAILURE, Outcome.RATE_LIMITED):
        return verdict.reason or verdict.outcome.value
    return None


def _description(verdict: Verdict | None, error: BaseException | None) -> str:
    if isinstance(error, NoProviderAvailable):
        return str(error)[:1000]
    words = [] if verdict is None else [verdict.reason or verdict.outcome.value]
    if error is not None:
        words.append(_name_of(error))
    return ": ".join(words)


def _name_of(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _status_of(error: Exception) -> int | None:
    """The HTTP status, where SDKs and HTTP clients put it."""
    for read in (attrgetter("status_code"), attrgetter("response.status_code")):
        try:
            status = read(error)
        except Exception:  # httpx raises where an error has no request
            continue
        if isinstance(status, int) and status >= 400:
            return status
    return None

"""Where an attempt's span is the current one. Blocks may end in any order, and in another thread or task.

OpenTelemetry's own tokens want the reverse order, and the context in which they were made.
"""

from typing import cast

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span

_INNERMOST = context.create_key("redis_router-place")


class Place:
    """A span is the current one from now on, until it is left."""

    __slots__ = ("_before", "_is_left", "_span")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._is_left = False
        self._before = context.get_current()
        context.attach(context.set_value(_INNERMOST, self, trace.set_span_in_context(span, self._before)))

    def leave(self) -> None:
        """What was current before is so again, where this span is; in another thread or task it may never have been.

        A place around it that was left meanwhile is passed by; what somebody else made current stays.
        """
        self._is_left = True
        now = here = context.get_current()
        while (place := _innermost(here)) is not None and place._is_left and _is_on_top(place, here):
            here = place._before
        if here is not now:
            context.attach(here)


def _innermost(here: Context) -> Place | None:
    return cast(Place | None, context.get_value(_INNERMOST, here))


def _is_on_top(place: Place, here: Context) -> bool:
    return trace.get_current_span(here) is place._span

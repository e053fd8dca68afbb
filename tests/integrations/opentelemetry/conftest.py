"""Traced routers, and what came of them: the spans that a real SDK exported."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from redis_router.integrations.opentelemetry import TracedRouter
from tests.support.fleet import weighted


class Traces:
    """What was exported, in the order in which it began."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("the application")

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]

    def named(self, name: str) -> ReadableSpan:
        """The one span of this name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def tree(self) -> list[str]:
        """Name by name, each below its parent, which was exported, too."""
        spans = self.spans
        depth = {None: -1}
        for span in spans:
            depth[span.context.span_id] = depth[span.parent.span_id if span.parent is not None else None] + 1
        return ["  " * depth[span.context.span_id] + span.name for span in spans]

    def forget(self) -> None:
        self._exporter.clear()


def events_of(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


@pytest.fixture
def traces() -> Iterator[Traces]:
    made = Traces()
    yield made
    made.provider.shutdown()


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    """After each test the current span is what it was."""
    before = trace.get_current_span()
    yield
    assert trace.get_current_span() is before


@pytest.fixture
def started(traces: Traces) -> Iterator[Callable[..., TracedRouter[Any]]]:
    """Makes routers that are started; "first" is asked before "second"."""

    def make(url: str, **options: Any) -> TracedRouter[Any]:
        options = {"tracer_provider": traces.provider, **options}
        return TracedRouter(options.pop("redis", url), registry=CollectorRegistry(), **options)

    with weighted(make) as start:
        yield start


@pytest.fixture
def router(started: Callable[..., TracedRouter[Any]]) -> TracedRouter[Any]:
    return started({"first": None, "second": None})

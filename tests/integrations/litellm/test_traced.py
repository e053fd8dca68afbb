"""The breaker with a router whose calls are traced."""

import asyncio

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from redis_router.integrations.opentelemetry import TracedRouter
from tests.support.fleet import QUICK

pytestmark = pytest.mark.filterwarnings("ignore")  # LiteLLM's own


def test_each_call_has_a_span(lite):
    """A child of the caller's, which stays the current one; a stream's lasts until its end."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    router = TracedRouter(lite.redis, tracer_provider=provider, registry=CollectorRegistry(), circuit=QUICK)
    lite.start("a", breaker={"redis": router, "circuit": None})
    lite.servers["a"].faults.append((503, {}))

    async def ask():
        with provider.get_tracer("app").start_as_current_span("caller") as caller:
            assert await lite.asked()
            assert trace.get_current_span() is caller
            assert not await lite.asked(stream=True)
            assert trace.get_current_span() is caller
        await lite.settled()
        return caller.get_span_context().span_id

    above = asyncio.run(ask())
    spans = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time)
    said = [(span.name, span.attributes.get("redis_router.outcome")) for span in spans]
    assert said == [("caller", None), ("attempt a", "failure"), ("attempt a", "success")]
    assert {span.parent.span_id for span in spans[1:]} == {above}
    provider.shutdown()

"""docs/tracing.md: its snippets, and each span, attribute and event that it names."""

import json
import re
from uuid import uuid4

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from redis_router import CircuitConfig, NoProviderAvailable, Provider
from redis_router.integrations.opentelemetry import TracedRouter
from tests.docs.conftest import URL
from tests.support import eventually
from tests.support.documents import PAGES, rows, snippet
from tests.support.fleet import Status
from tests.support.http import llm_server

PROGRAM = snippet("docs/tracing.md", "ConsoleSpanExporter")
PROPAGATE = snippet("docs/tracing.md", "propagate=")
PICTURE = snippet("docs/tracing.md", "└── request gpt-4o")


def table(head):
    """The rows of the table whose first column is called so."""
    _, _, rest = PAGES["docs/tracing.md"].partition(f"\n| {head} |")
    return rows(f"| {head} |" + rest.partition("\n\n")[0])


def test_the_program_prints_its_spans(as_a_user):
    """As it is printed; of the two providers one is down."""
    with llm_server() as openai, llm_server() as azure:
        openai.faults.extend([(503, {})] * 2)
        said = as_a_user(PROGRAM, f"{openai.url}/v1", f"{azure.url}/v1")
    spans = [json.loads(each) for each in re.findall(r"^\{$.*?^\}$", said, re.MULTILINE | re.DOTALL)]
    *attempts, request = spans
    assert request["name"] == "request gpt-4o"
    assert attempts[-1]["attributes"]["redis_router.outcome"] == "success"
    assert {attempt["parent_id"] for attempt in attempts} == {request["context"]["span_id"]}


def test_providers_are_named(one_real):
    """The snippet makes a router; what `propagate` does is tested with the transports."""
    scope = {}
    exec(PROPAGATE.replace(URL, one_real.url), scope)
    assert scope["router"]._spans.reaches("vllm")
    assert not scope["router"]._spans.reaches("openai")
    scope["router"].close()


@pytest.fixture
def spans():
    """Of the story that the picture shows, and of a request for which nobody was there."""
    out, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(out))
    changes = []
    router = TracedRouter(
        f"memory://{uuid4()}",
        tracer_provider=provider,
        registry=CollectorRegistry(),
        strategy="weighted",
        circuit=CircuitConfig(consecutive_failure_limit=1),
        when_all_open="raise",
        on_transition=changes.append,
    )
    for name, weight in (("openai", 1e6), ("azure", 1e-6)):
        router.register_provider(Provider(name, ("gpt-4o",), weight=weight))
    with router, provider.get_tracer("app").start_as_current_span("POST /chat"):
        for attempt in router.attempts("gpt-4o"):
            with attempt:
                if attempt.provider.name == "openai":
                    raise Status(503)
                eventually(lambda: changes, "the circuit opened")
                attempt.first_token()
        router.update_health("azure", available=False)
        with pytest.raises(NoProviderAvailable):
            router.attempt("gpt-4o")
    return {span.name: span for span in out.get_finished_spans()}


def test_the_picture(spans):
    """Each line of it: the spans in their order, their attributes, their events, and no event more."""
    shown, span = [], None
    for line in PICTURE.splitlines():
        text = line.lstrip(" │└├─")
        if "=" in text:
            for name, value in (part.split("=") for part in text.split()):
                assert str(span.attributes[name]) == value
        elif text.startswith("◆"):
            shown.append((span.name, text.removeprefix("◆ ")))
        else:
            depth, parent = line.index(text) // 4, None if span is None else span
            span = spans[text]
            assert depth == 0 or span.parent is not None
            assert depth != 1 or span.parent.span_id == parent.context.span_id
            assert depth != 2 or span.parent.span_id == spans["request gpt-4o"].context.span_id
    told = ["POST /chat", "request gpt-4o", "attempt openai", "attempt azure"]
    assert shown == [(name, event.name) for name in told for event in spans[name].events]


def test_each_attribute_and_event_is_in_the_tables(spans):
    """And none is there that no span has, but the trial call's."""
    ours = [span for span in spans.values() if span.name != "POST /chat"]
    found = {name for span in ours for name in span.attributes}
    told = {name for row in table("Attribute") for name in re.findall(r"`([a-z_.]+\.[a-z_.]+)`", row[0])}
    assert told - {"redis_router.half_open"} == found
    events = {event.name for span in ours for event in span.events}
    assert {row[0].strip("`") for row in table("Event")} == events

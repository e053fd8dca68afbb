"""Tracing that is absent, off or broken fails no request, and holds nothing back."""

import contextvars
import gc
import logging
import os
import subprocess
import sys

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler

from redis_router import NoProviderAvailable
from redis_router.integrations.httpx import Upstream, failover
from tests.support.documents import ROOT
from tests.support.fleet import Status, ask, calls_under_way, health


def all_ways(router):
    """A request that fails over, a single attempt, a stream, and nobody."""
    tried = ask(router.attempts("m"), Status(503), None)
    assert [attempt.provider.name for attempt in tried] == ["first", "second"]
    with router.attempt("m") as attempt:
        attempt.first_token()
    with pytest.raises(ValueError), router.attempt_at("second", "m"):
        raise ValueError
    with pytest.raises(NoProviderAvailable):
        router.attempt("nobody")
    assert calls_under_way(router, "first") == calls_under_way(router, "second") == 0


def test_without_an_sdk(started):
    """The API's own provider, which makes no spans: nothing is set, nothing is sent."""
    router = started({"first": None, "second": None}, tracer_provider=trace.NoOpTracerProvider(), propagate=True)
    all_ways(router)
    with router.attempt("m") as attempt:
        assert attempt.headers == {}
        assert not trace.get_current_span().get_span_context().is_valid


def test_what_is_not_sampled(started, traces):
    """No span; and what is below the attempt knows that it is not to be sampled."""
    off = TracerProvider(sampler=ALWAYS_OFF)
    router = started({"first": None, "second": None}, tracer_provider=off, propagate=True)
    all_ways(router)
    for attempt in router.attempts("m"):
        with attempt, traces.tracer.start_as_current_span("http"):
            assert attempt.headers["traceparent"].endswith(("-00", "-02"))
    assert traces.names == []


class _Broken(SpanProcessor):
    def __init__(self, when):
        self.when = when

    def on_start(self, span, parent_context=None):
        if self.when == "start":
            raise RuntimeError("mine")

    def on_end(self, span):
        if self.when == "end":
            raise RuntimeError("mine")


class _BrokenSampler(Sampler):
    def should_sample(self, *args, **options):
        raise RuntimeError("mine")

    def get_description(self):
        return "broken"


class _BrokenExporter(SpanExporter):
    def export(self, spans):
        raise RuntimeError("mine")


@pytest.mark.parametrize("what", ["start", "end", "sampler", "exporter"])
def test_broken_parts_of_the_applications(started, what, caplog):
    """They are logged; requests go on."""
    provider = TracerProvider(sampler=_BrokenSampler() if what == "sampler" else None)
    if what == "exporter":
        provider.add_span_processor(SimpleSpanProcessor(_BrokenExporter()))
    elif what != "sampler":
        provider.add_span_processor(_Broken(what))
    router = started({"first": None, "second": None}, tracer_provider=provider)
    with caplog.at_level(logging.WARNING):
        all_ways(router)
    assert "mine" in caplog.text
    assert health(router, "first").last_failure == "http_503"
    provider.shutdown()


def test_nothing_is_kept(router):
    """Of what ended, and of what nobody ended."""
    all_ways(router)
    contextvars.copy_context().run(lambda: next(iter(router.attempts("m"))).__enter__())
    gc.collect()
    assert router._spans._open == {}


def test_two_routers_in_one_request(started, traces):
    """One in a block of the other: the inner request is below the outer attempt."""
    one, other = started({"first": None}), started({"second": None})
    for attempt in one.attempts("m"):
        with attempt:
            before = context.get_current()
            ask(other.attempts("m"), None)
            assert context.get_current() is before
    assert traces.tree() == ["request m", "  attempt first", "    request m", "      attempt second"]


def test_a_forked_child(started, traces):
    """It makes spans of its own; those of its parent stay with the parent."""
    router = started({"first": None})
    with router.attempt("m"):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            before = len(traces.spans)
            with router.attempt("m"):
                pass
            os.write(writing, f"{before} {len(traces.spans)}".encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reading, 99) == b"0 1"
        os.close(reading)
        os.close(writing)
    assert traces.names == ["attempt first"]


def test_nothing_is_imported_where_it_is_not_used():
    """Also where OpenTelemetry is not installed."""
    code = """
import sys
sys.modules["opentelemetry"] = None  # importing it fails
import redis_router, redis_router.integrations.httpx, redis_router.cli, redis_router.demo.play
assert not [name for name in sys.modules if name.startswith("redis_router.integrations.opentelemetry")]
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_transport_takes_options_of_its_own(started):
    """What it checks at the beginning has no spans and fails as ever."""
    router = started({"first": Upstream("http://llm/v1")})
    with pytest.raises(ValueError, match="deadline"):
        failover(router, deadline=-1.0)

"""Spans of OpenTelemetry, where `--otel` asks for them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import context
from opentelemetry.propagate import extract

from redis_router.gateway.settings import Settings
from redis_router.integrations.httpx import Upstream
from redis_router.integrations.opentelemetry import TracedRouter

_SAID_BY_CLIENTS = (b"traceparent", b"tracestate")


def traced_router(redis: str, settings: Settings, **options: Any) -> TracedRouter[Upstream]:
    """Providers hear of the trace where `forward_headers` has `traceparent`."""
    return TracedRouter(redis, propagate="traceparent" in settings.forward_headers, **options)


@contextmanager
def in_trace_of(headers: Mapping[bytes, bytes]) -> Iterator[None]:
    """What begins in here is part of the client's trace."""
    said = {name.decode(): headers[name].decode("latin-1") for name in _SAID_BY_CLIENTS if name in headers}
    token = context.attach(extract(said, context.get_current()))
    try:
        yield
    finally:
        context.detach(token)

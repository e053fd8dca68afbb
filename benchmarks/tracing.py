"""`python -m benchmarks.tracing`: what a request pays for its spans, beside a router that makes none."""

from contextlib import ExitStack
from typing import Any
from uuid import uuid4

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider
from prometheus_client import CollectorRegistry

from benchmarks.measure import Case, interleaved, row
from redis_router import Provider, Router
from redis_router.integrations.opentelemetry import TracedRouter

WAYS = {
    "attempt": "with router.attempt('m'): pass",
    "attempts": "for attempt in router.attempts('m'):\n    with attempt: pass",
}

CALLS = 100
"""Of a sample: it is over before the background takes up what was recorded, which would be counted as well."""


def routers() -> dict[str, Router[Any]]:
    """By what becomes of their spans; none is exported."""
    options: dict[str, Any] = {"buffer_limit": 1_000_000}
    made: dict[str, Router[Any]] = {"Router": Router(f"memory://{uuid4()}", registry=CollectorRegistry(), **options)}
    providers = {
        "TracedRouter, no SDK": NoOpTracerProvider(),
        "TracedRouter, not sampled": TracerProvider(sampler=ALWAYS_OFF),
        "TracedRouter, sampled": TracerProvider(),
    }
    for name, provider in providers.items():
        url = f"memory://{uuid4()}"
        made[name] = TracedRouter(url, tracer_provider=provider, registry=CollectorRegistry(), **options)
    for router in made.values():
        for number in range(3):
            router.register_provider(Provider(f"p{number}", ("m",)))
    return made


def main() -> None:
    with ExitStack() as stack:
        cases = []
        for name, router in routers().items():
            stack.enter_context(router)
            for way, statement in WAYS.items():
                cases.append(Case(f"{way}: {name}", statement, {"router": router}, CALLS, router.flush))
        samples = interleaved(cases, 300)
    for name, values in sorted(samples.items()):
        print(f"{name:40} {row('tracing', name, 'µs', values).median:8.1f} µs")


if __name__ == "__main__":
    main()

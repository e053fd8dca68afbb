"""Guards the hot path in CI: its ratio to a plain dict look-up, measured by pytest-benchmark in the same process.

Run by `tests/process/test_hot_path.py`, on its own: `pytest -o addopts= benchmarks/guard.py`. The bounds are five times
what was measured, and more: they catch a lock, a log line or a look at the network, not a slow machine.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.hotpath import router
from redis_router import Router
from redis_router.testing.server import EmbeddedServer

floor: dict[str, float] = {}


@pytest.fixture(scope="module", params=[3, 1000])
def made(request: pytest.FixtureRequest) -> Iterator[Router]:
    """A started router with so many providers."""
    with EmbeddedServer() as server, router(server.url, "guard", request.param, strategy="round_robin") as ready:
        yield ready


def test_dict_look_up(benchmark: Any) -> None:
    """What the others are compared with."""
    plain = {"m": 1}
    benchmark(plain.__getitem__, "m")
    floor["dict"] = benchmark.stats.stats.min


def test_select_provider(benchmark: Any, made: Router) -> None:
    """As fast with 1000 providers as with 3."""
    benchmark(made.select_provider, "m")
    assert benchmark.stats.stats.min < 30 * floor["dict"]


def test_attempt(benchmark: Any, made: Router) -> None:
    """Choose, time, record."""

    def attempt() -> None:
        with made.attempt("m"):
            pass

    benchmark.pedantic(attempt, rounds=100, iterations=500, warmup_rounds=5)
    assert benchmark.stats.stats.min < 150 * floor["dict"]

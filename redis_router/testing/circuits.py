"""Circuits in the state that a test needs, and what the code under test recorded."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from redis_router.circuit import machine
from redis_router.circuit.record import CircuitState, ProviderHealth
from redis_router.errors import RedisRefused, RouterError
from redis_router.router import Router
from redis_router.store.memory_records import Memory

_numbers = count(1)


@contextmanager
def memory() -> Iterator[str]:
    """A memory that nobody else uses, in place of Redis, while the block runs; gives its URL, `memory://…`."""
    name = f"testing-{next(_numbers)}"
    try:
        yield f"memory://{name}"
    finally:
        Memory.forget(name)


def open_circuit(router: Router[Any], name: str, model: str | None = None) -> None:
    """Open a provider's circuit for the whole fleet, as if its calls had failed; no failure is recorded.

    `router` is started and serves the provider; it knows when this returns. `model` is for one with
    `circuit_per_model`: else all its circuits are meant. The circuit stays open for its `open_timeout`. Raises
    UnknownProvider, RedisUnavailable, RedisRefused, and RouterError where the router was not started.
    """
    _move(router, name, model, CircuitState.OPEN, "consecutive_failures")


def half_open_circuit(router: Router[Any], name: str, model: str | None = None) -> None:
    """Make a provider's circuit half-open: it takes trial calls. As `open_circuit`."""
    _move(router, name, model, CircuitState.HALF_OPEN, "open_timeout")


def close_circuit(router: Router[Any], name: str, model: str | None = None) -> None:
    """Close a provider's circuit, whatever it was. As `open_circuit`."""
    _move(router, name, model, CircuitState.CLOSED, "half_open_successes")


def _move(router: Router[Any], name: str, model: str | None, state: CircuitState, reason: str) -> None:
    engine = router._engine
    if not router.flush():
        raise RouterError(f"cannot move the circuit of {name!r}: was the router started, and is Redis there?")
    for record in router._operators.records(name if model is None else f"{name}/{model}"):
        found = engine.store.snapshot([record])
        health = found.records.get(record) or engine.records.copies.get(record)
        if record in found.unreadable:
            raise found.unreadable[record]
        while health is not None and health.circuit_state is not state:  # again where another transition came between
            now_ms, _ = engine.store.leader()
            if state is CircuitState.HALF_OPEN and health.circuit_state is CircuitState.CLOSED:
                health, _ = machine.transition(health, CircuitState.OPEN, "consecutive_failures", now_ms)
            moved, _ = machine.transition(health, state, reason, now_ms)
            health = engine.store.restore(engine.served.providers[record], moved).health
        if health is None:
            raise RedisRefused(f"cannot move the circuit of {record!r}: it has no record, or was deregistered")
        engine.apply(health, router.replica)


def wait_until(router: Router[Any], name: str, state: CircuitState | str, timeout: float = 5.0) -> ProviderHealth:
    """Wait until this router knows a circuit in that state: "open", "half_open" or "closed"; gives the record.

    By the record's name: `name/model` for a provider with `circuit_per_model`. Raises AssertionError after `timeout` s.
    """
    deadline = time.monotonic() + timeout
    while (found := router.get_circuit_state(name)) != CircuitState(state):
        if time.monotonic() > deadline:
            raise AssertionError(f"the circuit of {name!r} is {found} after {timeout:g} s, not {state}")
        time.sleep(0.005)
    return router.get_health_status()[name]


@contextmanager
def recorded(router: Router[Any]) -> Iterator[dict[tuple[str, str], int]]:
    """Count what is recorded while the block runs; the dict is filled when it ends::

        with recorded(router) as outcomes:
            client.post("/v1/chat/completions", json=body)
        assert outcomes == {("openai", "failure"): 1, ("azure", "success"): 1}

    By provider and outcome: "success", "failure", "rate_limited" or "ignored". Routers that share a registry are
    counted together. Raises RouterError where the router was not started, or Redis is away.
    """
    outcomes: dict[tuple[str, str], int] = {}
    before = _requests(router)
    yield outcomes
    after = {key: times - before.get(key, 0) for key, times in _requests(router).items()}
    outcomes.update((key, times) for key, times in after.items() if times)


def _requests(router: Router[Any]) -> dict[tuple[str, str], int]:
    if not router.flush():
        raise RouterError("what was recorded cannot be counted: was the router started, and is Redis there?")
    samples = (sample for family in router._engine.metrics.collect() for sample in family.samples)
    return {
        (sample.labels["provider"], sample.labels["outcome"]): int(sample.value)
        for sample in samples
        if sample.name == "redis_router_requests_total"
    }

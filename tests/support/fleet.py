"""Replicas as tests make, use and watch them: providers, results, metrics, records, log handlers.

What the public API does not show is read here and nowhere else: see "Behind the public API", at the end.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry

from redis_router import CircuitConfig, HealthChecker, NoProviderAvailable, Outcome, Provider, ProviderHealth, Router
from redis_router.circuit.outcome import Result
from redis_router.request.attempt import Attempt
from redis_router.store.contract import Batch, Store
from redis_router.store.messages import Reply
from tests.support.servers import eventually

TRACES = [
    json.loads(line) for line in (Path(__file__).parents[1] / "data" / "circuit_traces.jsonl").read_text().splitlines()
]
"""Runs recorded from the original Go router."""

OPENAI = Provider("openai", models=("gpt-4o", "gpt-4o-mini"), weight=2.0, client="the client")
AZURE = Provider("azure", models=("gpt-4o",))
CLAUDE = Provider("anthropic", models=("claude-sonnet",))
QUICK = CircuitConfig(
    consecutive_failure_limit=3, half_open_success_threshold=2, half_open_max_probes=2, open_timeout=0.05
)
NEVER = CircuitConfig(consecutive_failure_limit=100, failure_rate_threshold=1.0)
"""Thresholds that no test reaches."""


class Status(Exception):
    """An HTTP status, as SDKs raise it."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(f"status {status}")
        self.status_code = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


# Routers, workers, and their metrics

_registries: WeakKeyDictionary[Router[Any] | HealthChecker, CollectorRegistry] = WeakKeyDictionary()


def new_router(redis: Any, **options: Any) -> Router[Any]:
    """A router with a registry of its own, so that `metric` can read it."""
    return _with_registry(Router, redis, options)


def new_worker(redis: Any, **options: Any) -> HealthChecker:
    """A worker with a registry of its own, so that `metric` can read it."""
    return _with_registry(HealthChecker, redis, options)


def _with_registry(make: Callable[..., Any], redis: Any, options: dict[str, Any]) -> Any:
    options.setdefault("registry", CollectorRegistry())
    made = make(redis, **options)
    _registries[made] = options["registry"]
    return made


def registry_of(made: Router[Any] | HealthChecker) -> CollectorRegistry:
    """Where a router of `new_router`, or a worker of `new_worker`, counts."""
    return _registries[made]


def metric(of: CollectorRegistry | Router[Any] | HealthChecker, name: str, **labels: str) -> float:
    """The value of one redis_router_ sample, 0 where it was never touched."""
    registry = of if isinstance(of, CollectorRegistry) else registry_of(of)
    return registry.get_sample_value(f"redis_router_{name}", labels) or 0.0


def series_of(router: Router[Any], provider: str) -> list[str]:
    """The names of the samples that a router shows of a provider."""
    samples = (sample for family in registry_of(router).collect() for sample in family.samples)
    return [sample.name for sample in samples if sample.labels.get("provider") == provider]


# Results


def recorded(store: Store, provider: str, seq: int, *results: Result) -> Reply:
    """Send one batch; an error is raised."""
    (reply,) = store.record([Batch(provider, seq, results)])
    if isinstance(reply, Exception):
        raise reply
    return reply


def result(provider: str, success: bool, generation: int = 1, latency_ms: float = 10.0, permit: str = "") -> Result:
    """One outcome."""
    return Result(provider, Outcome.SUCCESS if success else Outcome.FAILURE, latency_ms, generation, permit)


def fail(router: Router[Any], name: str, times: int = 3) -> None:
    """Record failures, and see them through."""
    for _ in range(times):
        router.record_result(name, success=False, latency_ms=10.0)
    assert router.flush()


# What a replica sees


def until(router: Router[Any], name: str, state: str) -> None:
    """Wait until this replica sees that state."""
    eventually(lambda: router.get_circuit_state(name) == state, f"{name} is {state}")


def health(router: Router[Any], name: str) -> ProviderHealth:
    """The record of a provider as this replica knows it, with all that was recorded until now."""
    assert router.flush()
    return router.get_health_status()[name]


def half_open(router: Router[Any], worker: HealthChecker, name: str = "openai") -> None:
    """Trip a circuit, and wait until the worker moved it and this replica sees it."""
    worker.run_once()  # it leads: where nobody does, a replica would make the transition
    fail(router, name)
    eventually(lambda: name in worker.run_once().half_opened, f"the worker moved {name}")
    until(router, name, "half_open")


def only(router: Router[Any], name: str) -> None:
    """Take the other one of openai and azure out of service, so that the next attempt is this provider's."""
    for other in {"openai", "azure"} - {name}:
        router.update_health(other, available=False)


def chosen(router: Router[Any], model: str) -> Attempt[Any] | None:
    """An attempt for this model, None where nobody may be called now."""
    with suppress(NoProviderAvailable):
        return router.attempt(model)
    return None


# Requests


def ask(attempts: Any, *errors: BaseException | None, tried: Any = None, before: Any = lambda attempt: None) -> Any:
    """Enter each attempt and raise its error, None for an answer; returns the attempts."""
    tried = [] if tried is None else tried
    for attempt in attempts:
        with attempt:
            tried.append(attempt)
            before(attempt)
            error = errors[min(len(tried), len(errors)) - 1]
            if error is not None:
                raise error
    return tried


# Logs


@contextmanager
def log_handler(emit: Callable[[logging.LogRecord], None], level: int | None = None) -> Iterator[None]:
    """The application's own log handler, for a while: `emit` is called on the thread that logs."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            emit(record)

    logger, handler = logging.getLogger("redis_router"), Handler()
    before = logger.level
    logger.addHandler(handler)
    if level is not None:
        logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@contextmanager
def waiting_log_handler(call: Callable[[], Any]) -> Iterator[None]:
    """A log handler that makes this call on another thread and waits for it; at the end: it was made, and returned."""
    hung: list[bool] = []

    def emit(record: logging.LogRecord) -> None:
        other = threading.Thread(target=call, daemon=True)
        other.start()
        other.join(10.0)
        hung.append(other.is_alive())

    with log_handler(emit):
        yield
        eventually(lambda: hung, "a line was logged")
    assert not any(hung), "the call waits for a lock that is held while the handler runs"


def threads_of_ours() -> list[str]:
    """The names of the library's threads that run in this process."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("redis-router")]


# Behind the public API


def refresh(router: Router[Any]) -> None:
    """Read everything anew, now: the public API knows only the interval at which a replica does so by itself."""
    router._engine._take_look(router._engine._push.look())


def deafen(router: Router[Any]) -> None:
    """Take in nothing more of the fleet: a replica that hears nothing hangs up in no way that a test could make."""

    def nothing(_: Any) -> None:
        """Nothing is taken in."""

    router._engine._take_in = nothing  # type: ignore[method-assign]


def somebody_waits(router: Router[Any]) -> bool:
    """Does a request wait for a provider? A waiting request shows in no result, metric or key until it ends."""
    return bool(router._engine.waiters.is_heard)


def end_rate_limit(router: Router[Any], name: str) -> None:
    """A rate limit that was told here alone ended a second ago: no test waits for the end of one."""
    router._engine.view.table.candidates[name].here.limited_until = time.monotonic() - 1.0


def permits_in_hand(router: Router[Any], name: str) -> int:
    """How many permits wait for a call: those that a replica makes while Redis is away are counted nowhere."""
    hand = router._engine.permits._hands.get(name)
    return len(hand.unspent) if hand is not None else 0


def knows(worker: HealthChecker, name: str) -> bool:
    """Has this worker a copy of the record? It shows in its metrics only after the next probe."""
    return worker._fleet.has_provider(name)


def forget(worker: HealthChecker, name: str) -> None:
    """Drop the worker's copy of a record, as at the moment when another of its threads hears that it is gone."""
    worker._fleet.forget(name)


ON_PURPOSE = {"retired", "specs", "_asked_at", "_unsettled", "_unshown"}
"""Books that keep a name for a while after its provider is gone, or only until the next table."""


def books(router: Router[Any]) -> dict[str, set[Any]]:
    """What the router's parts keep by name, part by part: a leak of memory shows in no public figure.

    It follows the objects of this library from the router on, so it knows neither their names nor their number.
    """
    found: dict[str, set[Any]] = {}
    ahead, seen = [router], {id(router)}
    while ahead:
        part = ahead.pop()
        for name, value in getattr(part, "__dict__", {}).items():
            if isinstance(value, dict | set) and name not in ON_PURPOSE:
                found[f"{type(part).__name__}.{name}"] = set(value)
            elif type(value).__module__.startswith("redis_router.") and id(value) not in seen:
                seen.add(id(value))
                ahead.append(value)
    return found


def probes_running(worker: HealthChecker) -> int:
    """How many probes run or wait for room: one that hangs shows nowhere before its time is over."""
    return worker._duties.probes_running


def an_hour_later(worker: HealthChecker) -> None:
    """What the leader does once an hour is due now: no option shortens the hour."""
    worker._duties._tidy_at = 0.0


def calls_under_way(router: Router[Any], name: str) -> int:
    """Of this replica, at this provider, now: the gauge tells of the fleet, a moment later."""
    return len(router._view.table.candidates[name].here.in_flight)


@contextmanager
def weighted(make: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Starts routers that `make` makes of a URL and options; "first" of its providers is asked before "second"."""
    routers = []

    def start(providers: Mapping[str, Any], **options: Any) -> Any:
        router = make(f"memory://{uuid4()}", **{"circuit": NEVER, "strategy": "weighted", **options})
        for name, client in providers.items():
            router.register_provider(Provider(name, ("m",), weight=1e6 if name == "first" else 1e-6, client=client))
        routers.append(router)
        router.start()
        return router

    yield start
    for router in routers:
        router.close()

"""What a replica takes beside time: Redis commands, memory here and in Redis, and the import."""

import gc
import os
import subprocess
import sys
import threading
import tracemalloc
from contextlib import suppress
from tempfile import TemporaryDirectory
from typing import Any

import redis.connection
from prometheus_client import CollectorRegistry

from benchmarks.hotpath import router
from benchmarks.measure import Row, paced, row
from redis_router import CircuitConfig, Outcome, ProviderHealth, Router, Transition
from redis_router.circuit.outcome import Result
from redis_router.circuit.record import CircuitState
from redis_router.telemetry.metrics import Metrics

PROVIDERS = 500
FLEET = 10
"""So many replicas have written within the hour, for the row that has a bound."""


def commands(url: str, seconds: float, rounds: int) -> list[Row]:
    """Redis commands of a replica at 1,000 requests/s, of which 1 % fail: on the calling thread, and in the background.

    The server is this part's alone, so what it counts is ours; commands that scripts call are left out.
    """
    on_path, each = [], []
    send, me = redis.connection.AbstractConnection.send_packed_command, threading.get_ident()
    sent: list[int] = []

    def counted(self: Any, command: Any, check_health: bool = True) -> Any:
        sent.append(threading.get_ident())
        return send(self, command, check_health)

    with router(url, "commands", 3, circuit=CircuitConfig(consecutive_failure_limit=1000)) as made:

        def request(number: int) -> None:
            with suppress(OSError), made.attempt("m"):
                if number % 100 == 0:
                    raise OSError

        admin = redis.Redis.from_url(url)
        for _ in range(rounds):
            before = _from_clients(admin)
            redis.connection.AbstractConnection.send_packed_command = counted  # type: ignore[method-assign]
            try:
                done = paced(1_000, seconds, request)
            finally:
                redis.connection.AbstractConnection.send_packed_command = send  # type: ignore[method-assign]
            on_path.append(sent.count(me))
            made.flush()
            each.append((_from_clients(admin) - before) / done)
        admin.close()
    return [
        row("commands", "sent by the thread that makes the requests", "", on_path, at_most=0),
        row("commands", "in the background, 1,000 requests/s over 3 providers", "per request", each, at_most=0.05),
    ]


def _from_clients(admin: Any) -> int:
    """What clients sent, as no script calls any of these; a refresh, twice a minute, is left out."""
    said = admin.info("commandstats")
    names = ("evalsha", "eval", "ping", "subscribe")
    return sum(said.get(f"cmdstat_{name}", {}).get("calls", 0) for name in names)


def memory(url: str) -> list[Row]:
    """Bytes for each provider, here and in Redis, after successes and failures and with every circuit open; and whether
    traffic adds any.

    Each is called once at first, which takes some 200 bytes: by itself `adaptive` would come to the slowest by and by.
    """
    with router(url, "warm", 3) as made:  # what is allocated once
        _traffic(made, 5_000)
    tracemalloc.start()
    before = _traced()
    with router(url, "memory", PROVIDERS, circuit=CircuitConfig(open_timeout=3600.0)) as made:
        for number in range(PROVIDERS):
            with made.attempt_at(f"p{number}", "m"):
                pass
        steps = [_traced()]
        for _ in range(5):
            _traffic(made, 20_000)
            steps.append(_traced())
        for number in range(PROVIDERS):
            for _ in range(5):
                made.record_result(f"p{number}", success=False, latency_ms=10.0)
        made.flush(30.0)
        here = (_traced() - before) / PROVIDERS
        in_redis = _in_redis(made)
    begun = _traced()
    kept = _bare_series()
    series = (_traced() - begun) / PROVIDERS
    del kept
    tracemalloc.stop()
    record, replica, events = (size / PROVIDERS for size in in_redis)
    return [
        row("memory", f"a provider in a replica, of {PROVIDERS}", "KB", [here / 1024], at_most=4.0),
        row("memory", "of which prometheus-client's series, made without a router", "KB", [series / 1024]),
        row(
            "memory",
            "growth over the last 60,000 of 100,000 requests",
            "KB",
            [(steps[5] - steps[2]) / 1024],
            at_most=16,
        ),
        row("memory", "in Redis: the record of a provider", "bytes", [record]),
        row("memory", "in Redis: for each replica that wrote within the hour, a provider", "bytes", [replica]),
        row(
            "memory",
            f"in Redis: a provider and {FLEET} replicas, without the events",
            "KB",
            [(record + FLEET * replica) / 1024],
            at_most=2.0,
        ),
        row("memory", "in Redis: the events of a provider, one so far (some 1,000 are kept)", "bytes", [events]),
    ]


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _in_redis(made: Router) -> tuple[int, int, int]:
    """Bytes of all records, of all that one replica adds, and of all event logs."""
    admin, sizes = made._engine.store.client, {":health": 0, ":seq:": 0, ":events": 0}
    for key in admin.scan_iter("memory:{*", count=1000):
        for part in sizes:
            sizes[part] += admin.memory_usage(key) if part in key else 0
    return sizes[":health"], sizes[":seq:"], sizes[":events"]


def _bare_series() -> Metrics:
    """The series that the router's providers have by then, and nothing else."""
    metrics = Metrics(CollectorRegistry())
    for number in range(PROVIDERS):
        name = f"p{number}"
        metrics.results(name, [Result(name, outcome, 1.0, 1) for outcome in (Outcome.SUCCESS, Outcome.FAILURE)])
        metrics.health([ProviderHealth(name)])
        change = Transition(name, CircuitState.CLOSED, CircuitState.OPEN, "failure_rate", 2)
        metrics.transition(change, ProviderHealth(name))
    return metrics


def _traffic(made: Router, requests: int) -> None:
    for _ in range(requests // 1_000):
        for _ in range(1_000):
            with made.attempt("m"):
                pass
        made.flush()


def importing(rounds: int) -> list[Row]:
    """CPU that `import redis_router` adds to `import redis`, with cached bytecode, each in a process, in turn."""
    samples: list[list[float]] = [[], [], []]
    programs = ("import redis", "import redis, prometheus_client, tenacity", "import redis, redis_router")
    with TemporaryDirectory(prefix="redis-router-bytecode-") as folder:
        for number in range(rounds + 1):
            alone, packages, whole = (_import_ms(code, folder) for code in programs)
            if number > 0:  # the first one compiled
                for found, value in zip(samples, (alone, packages - alone, whole - alone), strict=True):
                    found.append(value)
    return [
        row("import", "`import redis`", "ms of CPU", samples[0]),
        row("import", "what `import redis_router` adds to it", "ms of CPU", samples[2], at_most=60.0),
        row("import", "what prometheus-client and tenacity add to it", "ms of CPU", samples[1]),
    ]


def _import_ms(code: str, bytecode: str) -> float:
    program = f"import time; t = time.process_time(); {code}; print((time.process_time() - t) * 1000)"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**kept, "PYTHONPYCACHEPREFIX": bytecode},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)

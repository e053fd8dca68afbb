"""What a request pays: choosing a provider, a whole attempt, several threads at once; and what importing costs."""

import gc
import os
import statistics
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import redis.connection
from prometheus_client import CollectorRegistry

from benchmarks.measure import Case, Row, interleaved, paced, row
from redis_router import Provider, ProviderHealth, Router
from redis_router.strategies import STRATEGIES, resolve
from redis_router.table import build, updated

SIZES = (3, 10, 100, 1000)


@contextmanager
def router(url: str, namespace: str, providers: int, **options: Any) -> Iterator[Router]:
    """A started router with its own metrics; every provider serves the model "m" and was measured once."""
    options.setdefault("buffer_limit", 1_000_000)
    made = Router(url, namespace=namespace, registry=CollectorRegistry(), **options)
    for number in range(providers):
        made.register_provider(Provider(f"p{number}", ("m",)))
    with made:
        for number in range(providers):
            made.record_result(f"p{number}", success=True, latency_ms=100.0 + number)
        assert made.flush(30.0), "the server took what was recorded"
        yield made


def choosing(url: str, rounds: int) -> list[Row]:
    """`select_provider` by strategy and number of providers, beside a bare dict look-up."""
    with ExitStack() as stack:
        cases = [Case("dict look-up", "d['m']", {"d": {"m": 1}}, 50_000)]
        for strategy in STRATEGIES:
            for size in SIZES:
                made = stack.enter_context(router(url, f"select-{strategy}-{size}", size, strategy=strategy))
                cases.append(
                    Case(f"{strategy}, {size} providers", "select('m')", {"select": made.select_provider}, 20_000)
                )
        samples = interleaved(cases, rounds)
    rows = [row("select", "a dict look-up, for scale", "µs", samples.pop("dict look-up"))]
    rows += [row("select", name, "µs", values, at_most=0.5) for name, values in samples.items()]
    for strategy in STRATEGIES:
        small, large = (statistics.median(samples[f"{strategy}, {size} providers"]) for size in (3, 1000))
        rows.append(row("select", f"{strategy}, 1000 providers against 3", "times", [large / small]))
    return rows


def rebuilding(rounds: int) -> list[Row]:
    """A new table when one record changed: 1000 providers that all serve the same 50 models."""
    models = tuple(f"m{number}" for number in range(50))
    providers = [Provider(f"p{number}", models) for number in range(1000)]
    records = {p.name: ProviderHealth(p.name, latency_ms=100.0 + n) for n, p in enumerate(providers)}
    changed = ProviderHealth("p500", latency_ms=50.0)
    cases = []
    for name in STRATEGIES:
        strategy = resolve(name)
        names = {"updated": updated, "strategy": strategy, "changed": [changed]}
        names["table"] = build(providers, records, strategy)
        cases.append(Case(name, "updated(table, changed, strategy)", names, 3))
    samples = interleaved(cases, rounds)
    return [
        row("table", f"{name}, 1000 providers with the same 50 models", "ms", [value / 1000 for value in values])
        for name, values in samples.items()
    ]


def attempting(url: str, rounds: int) -> list[Row]:
    """A whole attempt: choose, time, record. Blocks are short, and Redis catches up between them, untimed."""
    with router(url, "attempt", 3) as made, router(url, "attempt-1000", 1000) as large:
        attempt, record = "with attempt('m'): pass", "record('p0', success=True, latency_ms=10.0)"
        samples = interleaved(
            [
                Case("with router.attempt(model)", attempt, {"attempt": made.attempt}, 2_000, made.flush),
                Case("the same, 1000 providers", attempt, {"attempt": large.attempt}, 2_000, large.flush),
                Case("record_result", record, {"record": made.record_result}, 2_000, made.flush),
            ],
            rounds,
        )
    return [row("attempt", name, "µs", values, at_most=2.0) for name, values in samples.items()]


def threads(url: str, rounds: int, label: str = "") -> list[Row]:
    """Attempts from 1, 4 and 16 threads on one router: what each costs the machine."""
    rows = []
    with router(url, f"threads{label.replace(' ', '')}", 3) as made:
        for number in (1, 4, 16):
            samples = []
            for _ in range(rounds):
                samples.append(_from_threads(made, number, 8_000 // number))
                made.flush()
            rows.append(row("threads", f"attempt, {number} threads{label}", "µs of wall clock", samples))
    return rows


def _from_threads(made: Router, number: int, calls: int) -> float:
    ready = threading.Barrier(number + 1)

    def run() -> None:
        ready.wait()
        for _ in range(calls):
            with made.attempt("m"):
                pass

    pool = [threading.Thread(target=run) for _ in range(number)]
    for thread in pool:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    for thread in pool:
        thread.join()
    return (time.perf_counter() - began) / (calls * number) * 1e6


def without_gil(url: str, interpreter: str, rounds: int) -> list[Row]:
    """The same in a free-threaded interpreter that has the library installed."""
    program = (
        "import sys; assert not sys._is_gil_enabled(); from benchmarks import hotpath;"
        f"[print(r.median, r.what) for r in hotpath.threads({url!r}, {rounds}, ' without the GIL')]"
    )
    done = subprocess.run([interpreter, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    rows = []
    for line in done.stdout.splitlines():
        value, _, what = line.partition(" ")
        rows.append(row("threads", what, "µs of wall clock", [float(value)]))
    return rows


def commands(url: str, seconds: float) -> list[Row]:
    """Redis commands of a replica at 1,000 requests/s: on the calling thread, and in the background."""
    sent: dict[int, int] = {}
    send = redis.connection.AbstractConnection.send_packed_command

    def counted(self: Any, command: Any, check_health: bool = True) -> Any:
        me = threading.get_ident()
        sent[me] = sent.get(me, 0) + 1
        return send(self, command, check_health)

    with router(url, "commands", 3) as made:

        def request(_: int) -> None:
            with made.attempt("m"):
                pass

        redis.connection.AbstractConnection.send_packed_command = counted  # type: ignore[method-assign]
        try:
            admin = made._engine.store.client
            before = _from_clients(admin)
            done = paced(1_000, seconds, request)
            on_path = sent.get(threading.get_ident(), 0)
            made.flush()
            after = _from_clients(admin)
        finally:
            redis.connection.AbstractConnection.send_packed_command = send  # type: ignore[method-assign]
    return [
        row("commands", "on the request path", "sends", [on_path - 1], at_most=0),  # one is our own INFO
        row(
            "commands",
            "in the background, at 1,000 requests/s over 3 providers",
            "per request",
            [(after - before) / done],
            at_most=0.05,
        ),
    ]


def _from_clients(admin: Any) -> int:
    """Commands that came over a connection; those that scripts call are not counted."""
    said = admin.info("commandstats")
    return sum(
        said.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval", "ping", "hgetall", "hget")
    )


def memory(url: str) -> list[Row]:
    """Bytes for each provider, here and in Redis, and what traffic adds."""
    number = 500
    with router(url, "warm", 3):  # what is allocated once
        pass
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    with router(url, "memory", number) as made:
        loaded = tracemalloc.get_traced_memory()[0]
        _traffic(made, 20_000)
        gc.collect()
        settled = tracemalloc.get_traced_memory()[0]
        _traffic(made, 100_000)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        own = sum(
            trace.size
            for trace in tracemalloc.take_snapshot().statistics("filename")
            if f"{os.sep}prometheus_client{os.sep}" not in trace.traceback[0].filename
        )
        admin = made._engine.store.client
        keys = [key for key in admin.scan_iter("memory:{*", count=1000) if not key.endswith(":events")]
        in_redis = sum(admin.memory_usage(key) for key in keys)
        seqs = sum(admin.memory_usage(key) for key in keys if ":seq:" in key)
    tracemalloc.stop()
    return [
        row("memory", f"a provider in a replica, of {number}", "KB", [(loaded - before) / number / 1024], at_most=4.0),
        row("memory", "of that all but prometheus-client's series", "KB", [own / number / 1024]),
        row("memory", "each of 100,000 more requests", "bytes", [(after - settled) / 100_000], at_most=2.0),
        row("memory", "a provider in Redis, with one replica", "KB", [in_redis / number / 1024], at_most=2.0),
        row("memory", "of that for each replica that wrote within the hour", "bytes", [seqs / number]),
    ]


def _traffic(made: Router, requests: int) -> None:
    for _ in range(requests // 1_000):
        for _ in range(1_000):
            with made.attempt("m"):
                pass
        made.flush()


def importing(rounds: int) -> list[Row]:
    """What `import redis_router` adds to `import redis`, each in a process of its own, in turn."""
    added, of_packages = [], []
    programs = ("import redis", "import redis, prometheus_client, tenacity", "import redis, redis_router")
    with TemporaryDirectory(prefix="redis-router-bytecode-") as folder:
        for number in range(rounds + 1):
            alone, packages, whole = (_import_seconds(code, folder) for code in programs)
            if number > 0:  # the first one compiled
                added.append((whole - alone) * 1000)
                of_packages.append((packages - alone) * 1000)
    return [
        row("import", "`import redis_router` adds to `import redis`", "ms", added, at_most=60.0),
        row("import", "of that prometheus-client and tenacity", "ms", of_packages),
    ]


def _import_seconds(code: str, bytecode: str) -> float:
    program = f"import time; t = time.process_time(); {code}; print(time.process_time() - t)"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**kept, "PYTHONPYCACHEPREFIX": bytecode},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)

"""What a request pays: choosing a provider, a whole attempt, several threads at once; and what a new table takes."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from benchmarks.measure import Case, Row, interleaved, not_measured, ratios, row
from redis_router import Provider, ProviderHealth, Router
from redis_router.routing.strategies import STRATEGIES, resolve
from redis_router.routing.table import Tables

SIZES = (3, 10, 100, 1000)


@contextmanager
def router(url: str, namespace: str, providers: int, *, tied: bool = False, **options: Any) -> Iterator[Router]:
    """A started router with its own metrics; every provider serves the model "m" and was measured once.

    In the end all that was recorded must be in Redis. The buffer is larger than usual: a benchmark records in a second
    what a gateway records in minutes.
    """
    registry = CollectorRegistry()
    made = Router(url, namespace=namespace, registry=registry, **{"buffer_limit": 1_000_000, **options})
    for number in range(providers):
        made.register_provider(Provider(f"p{number}", ("m",)))
    with made:
        for number in range(providers):
            made.record_result(f"p{number}", success=True, latency_ms=100.0 + (0 if tied else number))
        assert made.flush(30.0), "the server took what was recorded"
        yield made
        assert made.flush(60.0), "the server took what was recorded"
    dropped = [each for each in registry.collect() if each.name == "redis_router_results_dropped"]
    assert not any(sample.value for each in dropped for sample in each.samples if sample.name.endswith("_total"))


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
        made = stack.enter_context(router(url, "select-tied", 1000, tied=True, strategy="latency"))
        cases.append(Case("latency, 1000 equals", "select('m')", {"select": made.select_provider}, 20_000))
        samples = interleaved(cases, rounds)
    rows = [row("select", "a dict look-up, for scale", "µs", samples.pop("dict look-up"))]
    rows += [row("select", name, "µs", values, at_most=0.5) for name, values in samples.items()]
    for strategy in STRATEGIES:
        large, small = (samples[f"{strategy}, {size} providers"] for size in (1000, 3))
        rows.append(row("select", f"{strategy}: 1000 providers cost so many times what 3 do", "", ratios(large, small)))
    return rows


def rebuilding(rounds: int) -> list[Row]:
    """A new table when one record changed: 1000 providers that all serve the same 50 models."""
    models = tuple(f"m{number}" for number in range(50))
    providers = [Provider(f"p{number}", models) for number in range(1000)]
    records = {p.name: ProviderHealth(p.name, latency_ms=100.0 + n) for n, p in enumerate(providers)}
    changed = ProviderHealth("p500", latency_ms=50.0)
    cases = []
    for name in STRATEGIES:
        tables = Tables(resolve(name), time.time)
        names = {"tables": tables, "changed": [changed], "table": tables.build(providers, records)}
        cases.append(Case(name, "tables.updated(table, changed)", names, 3))
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
    """Attempts from 1, 4 and 16 threads on one router: the time of all of them, for each call."""
    rows = []
    with router(url, f"threads{label.replace(' ', '')}", 3) as made:
        for number in (1, 4, 16):
            samples = []
            for _ in range(rounds):
                samples.append(_from_threads(made, number, 8_000 // number))
                made.flush()
            rows.append(row("threads", f"{number} threads{label}, all their time for each call", "µs", samples))
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
    """The same in a free-threaded interpreter that has the library's dependencies."""
    program = (
        "import sys, json, dataclasses; assert not sys._is_gil_enabled(), 'it has a GIL';"
        "from benchmarks import hotpath;"
        f"rows = hotpath.threads({url!r}, {rounds}, ' without the GIL');"
        "print(json.dumps([dataclasses.asdict(each) for each in rows]))"
    )
    done = subprocess.run([interpreter, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        return [not_measured("threads", f"{interpreter}: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")]
    return [Row(**each) for each in json.loads(done.stdout.splitlines()[-1])]

"""Others that Python gateways use, called as their documentation says, on the same server, in the same run.

Each does something that we do not do, and the reverse: `differences` says what, and the report prints it.
"""

import asyncio
import os
import statistics
from contextlib import ExitStack
from typing import Any

import interlock
import pybreaker
import redis
from interlock.integrations.redis import RedisStorage
from purgatory import AsyncCircuitBreakerFactory
from purgatory.service._async.unit_of_work import AsyncRedisUnitOfWork

from benchmarks.hotpath import router
from benchmarks.measure import Case, Row, interleaved, row

differences = {
    "LiteLLM's Router": "filters cooled-down deployments, health and rate-limit tags for each request, and counts"
    " usage; ours chooses from a table made beforehand, and knows neither tokens nor budgets. With Redis it reads its"
    " latency map there for each request, so it sees other replicas' latencies at once; ours within the push interval.",
    "interlock-cb with Redis": "has a sliding window, slow calls, bulkheads and time-outs; it reads Redis once a second"
    " and keeps its failure counts in each process. It guards one dependency and chooses none; ours also chooses, and "
    "counts for the fleet.",
    "pybreaker with Redis": "reads and writes Redis within each call, so every process sees a change with its next "
    "call; it has one shared counter of failures, no average of latency, no bound on half-open calls.",
    "purgatory with Redis": "reads and writes Redis within each call; it has a threshold and a time to live, and "
    "chooses no provider.",
}


def choosing(url: str, rounds: int) -> list[Row]:
    """`select_provider` beside LiteLLM's `get_available_deployment`, in memory and with Redis."""
    os.environ.setdefault("LITELLM_LOG", "ERROR")
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no download at import
    import litellm

    litellm.suppress_debug_info = True
    messages = [{"role": "user", "content": "hi"}]
    cases, ours = [], {}
    with ExitStack() as stack:
        for size in (3, 100):
            made = stack.enter_context(router(url, f"peer-{size}", size))
            ours[size] = f"redis_router, latency, {size} providers"
            cases.append(Case(ours[size], "select('m')", {"select": made.select_provider}, 10_000))
            models = [
                {
                    "model_name": "m",
                    "litellm_params": {"model": f"openai/gpt-{n}", "api_key": "none", "api_base": "http://127.0.0.1:9"},
                }
                for n in range(size)
            ]
            for strategy in ("simple-shuffle", "latency-based-routing"):
                for label, where in (("", {}), (" with Redis", {"redis_url": url})):
                    peer = litellm.Router(model_list=models, routing_strategy=strategy, **where)
                    names = {"peer": peer, "messages": messages}
                    cases.append(
                        Case(
                            f"LiteLLM Router{label}, {strategy}, {size} deployments",
                            "peer.get_available_deployment(model='m', messages=messages)",
                            names,
                            2_000 // size,
                        )
                    )
        samples = interleaved(cases, rounds)
    rows = [row("peers: choosing", name, "µs", values) for name, values in samples.items()]
    for size, least in ((3, 100), (100, 1000)):
        fastest = min(
            statistics.median(values)
            for name, values in samples.items()
            if name.startswith("LiteLLM") and f" {size} deployments" in name
        )
        times = fastest / statistics.median(samples[ours[size]])
        rows.append(
            row(
                "peers: choosing",
                f"LiteLLM's fastest against ours, {size} deployments",
                "times",
                [times],
                at_least=least,
            )
        )
    return rows


def guarding(url: str, rounds: int) -> list[Row]:
    """A whole guarded call of a function that does nothing."""

    def work() -> None:
        return None

    client = redis.Redis.from_url(url)
    guarded = interlock.CircuitBreaker(name="benchmark", storage=RedisStorage(client))(work)
    breaker = pybreaker.CircuitBreaker(
        state_storage=pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, client, namespace="benchmark")
    )
    purgatory = AsyncCircuitBreakerFactory(uow=AsyncRedisUnitOfWork(url))  # the sync one awaits nothing of its client

    async def calls() -> None:
        for _ in range(50):
            async with await purgatory.get_breaker("benchmark"):
                work()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(purgatory.initialize())
    with router(url, "peer-attempt", 3) as made:
        ours = "redis_router, with router.attempt(model)"
        samples = interleaved(
            [
                Case(ours, "with attempt('m'): work()", {"attempt": made.attempt, "work": work}, 2_000, made.flush),
                Case("interlock-cb with Redis, a decorated call", "guarded()", {"guarded": guarded}, 1_000),
                Case("pybreaker with Redis, call", "call(work)", {"call": breaker.call, "work": work}, 50),
                Case(
                    "purgatory with Redis, async with get_breaker(name)",
                    "run(calls())",
                    {"run": loop.run_until_complete, "calls": calls},
                    1,
                    each=50,
                ),
            ],
            rounds,
        )
    client.close()
    loop.close()
    own = statistics.median(samples[ours])
    rows = [row("peers: guarding", name, "µs", values) for name, values in samples.items()]
    bounds: dict[str, Any] = {"interlock-cb": 5, "pybreaker": 100, "purgatory": None}
    for name, values in samples.items():
        for peer, least in bounds.items():
            if name.startswith(peer):
                times = [statistics.median(values) / own]
                rows.append(row("peers: guarding", f"{peer} against ours", "times", times, at_least=least))
    return rows

"""Others that Python gateways use, called as their documentation says, on the same server, in the same run.

Each does something that we do not do, and the reverse: `differences` says what, and the report prints it.
"""

import asyncio
import os
from contextlib import ExitStack
from typing import Any

import interlock
import pybreaker
import redis
from interlock.integrations.redis import RedisStorage
from purgatory import AsyncCircuitBreakerFactory
from purgatory.service._async.unit_of_work import AsyncRedisUnitOfWork

from benchmarks.hotpath import router
from benchmarks.measure import Case, Row, interleaved, on_cores, ratios, row

differences = {
    "LiteLLM's Router": "filters cooled-down deployments, health and rate-limit tags for each request, and counts"
    " usage; ours chooses from a table made beforehand, and knows neither tokens nor budgets. Its latency map is in"
    " memory, and read from Redis where memory has none; it was filled with one latency a deployment, as ours was.",
    "interlock-cb with Redis": "has a sliding window, slow calls, bulkheads and time-outs; it reads Redis once a second"
    " and keeps its failure counts in each process. It guards one dependency and chooses none; ours also chooses, and"
    " counts for the fleet.",
    "pybreaker with Redis": "sends a GET and a SET within each call, so every process sees a change with its next call;"
    " it has one shared counter of failures, no average of latency, no bound on half-open calls.",
    "purgatory with Redis": "sends two GETs within each call; it has a threshold and a time to live, and chooses no"
    " provider.",
}
LIKE = {"simple-shuffle": "weighted", "latency-based-routing": "latency"}
"""LiteLLM's strategies, and ours that do the same."""


def choosing(url: str, rounds: int) -> list[Row]:
    """`select_provider` beside LiteLLM's `get_available_deployment`, in memory and with Redis."""
    os.environ.setdefault("LITELLM_LOG", "ERROR")
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no download at import
    import litellm

    litellm.suppress_debug_info = True
    cases, pairs = [], []
    with ExitStack() as stack:
        for size in (3, 100):
            for theirs, strategy in LIKE.items():
                made = stack.enter_context(router(url, f"peer-{strategy}-{size}", size, strategy=strategy))
                ours = f"redis_router, {strategy}, {size} providers"
                cases.append(Case(ours, "select('m')", {"select": made.select_provider}, 10_000))
                for label, where in (("", {}), (" with Redis", {"redis_url": url})):
                    peer = litellm.Router(model_list=_deployments(size), routing_strategy=theirs, **where)
                    ids = [each["model_info"]["id"] for each in peer.model_list]
                    peer.cache.set_cache("m_map", {each: {"latency": [0.1 + n / 1000]} for n, each in enumerate(ids)})
                    name = f"LiteLLM Router{label}, {theirs}, {size} deployments"
                    choose = "peer.get_available_deployment(model='m', messages=messages)"
                    names = {"peer": peer, "messages": [{"role": "user", "content": "hi"}]}
                    cases.append(Case(name, choose, names, 2_000 // size))
                    pairs.append((size, name, ours))
        samples = interleaved(cases, rounds)
    rows = [row("peers: choosing", name, "µs", values) for name, values in samples.items()]
    for size, theirs, ours in pairs:
        least = {3: 100, 100: 1000}[size]
        times = ratios(samples[theirs], samples[ours])
        rows.append(row("peers: choosing", f"{theirs}: so many times {ours.split(', ')[1]}", "", times, at_least=least))
    return rows


def _deployments(size: int) -> list[dict[str, Any]]:
    return [
        {
            "model_name": "m",
            "litellm_params": {"model": f"openai/gpt-{n}", "api_key": "none", "api_base": "http://127.0.0.1:9"},
        }
        for n in range(size)
    ]


def guarding(url: str, rounds: int, server: int) -> list[Row]:
    """A whole guarded call of a function that does nothing; `server` is the server's process id.

    A round trip takes several times longer between two cores than on one, where no core must wake: both are measured.
    """
    rows = []
    for cores in ([0], [0, 1]):
        if len(cores) > (os.cpu_count() or 1):
            continue
        with on_cores(cores, server):
            samples = _guarding(url, rounds, f"on {len(cores)} core{'s' if len(cores) > 1 else ''}")
        rows += [row("peers: guarding", name, "µs", values) for name, values in samples.items()]
        ours = next(values for name, values in samples.items() if name.startswith("redis_router"))
        for peer, least in (("interlock-cb", 5), ("pybreaker", 100), ("purgatory", None)):
            name, values = next((name, values) for name, values in samples.items() if name.startswith(peer))
            rows.append(row("peers: guarding", f"{name}: so many times ours", "", ratios(values, ours), at_least=least))
    return rows


def _guarding(url: str, rounds: int, where: str) -> dict[str, list[float]]:
    def work() -> None:
        return None

    client = redis.Redis.from_url(url)
    guarded = interlock.CircuitBreaker(name=f"benchmark {where}", storage=RedisStorage(client))(work)
    breaker = pybreaker.CircuitBreaker(
        state_storage=pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, client, namespace=f"benchmark {where}")
    )
    purgatory = AsyncCircuitBreakerFactory(uow=AsyncRedisUnitOfWork(url))  # the sync one awaits nothing of its client

    async def calls() -> None:
        for _ in range(50):
            async with await purgatory.get_breaker("benchmark"):
                work()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(purgatory.initialize())
    with router(url, f"peer-attempt-{where[3]}", 3) as made:
        samples = interleaved(
            [
                Case(
                    f"redis_router, with router.attempt(model), {where}",
                    "with attempt('m'): work()",
                    {"attempt": made.attempt, "work": work},
                    2_000,
                    made.flush,
                ),
                Case(f"interlock-cb with Redis, a decorated call, {where}", "guarded()", {"guarded": guarded}, 1_000),
                Case(f"pybreaker with Redis, call, {where}", "call(work)", {"call": breaker.call, "work": work}, 50),
                Case(
                    f"purgatory with Redis, async with get_breaker(name), {where}",
                    "run(calls())",
                    {"run": loop.run_until_complete, "calls": calls},
                    1,
                    each=50,
                ),
                Case(f"a bare PING by redis-py, {where}", "ping()", {"ping": client.ping}, 50),
            ],
            rounds,
        )
    client.close()
    loop.close()
    return samples

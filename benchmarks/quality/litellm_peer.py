"""LiteLLM's Router in virtual time: its choice, its cooldowns and its latency map, one Router a replica, in memory.

Its caches ask `time.time`, which is ours while it works. It counts cooldowns on the machine's clock, which virtual time
outruns: they are ended from here. Its Redis would go by its own clock, so that what replicas share through it
(cooldowns, seen up to seconds later) is not driven here.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from benchmarks.quality.fleet import EPOCH_MS, MODEL
from benchmarks.quality.world import Answer, ByCall, Run

os.environ.setdefault("LITELLM_LOG", "CRITICAL")
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no download at import


def litellm_router(strategy: str) -> Callable[[Run], "LiteLLM"]:
    """A policy, for `Run.play`."""
    return lambda run: LiteLLM(run, strategy)


class LiteLLM(ByCall):
    """With its defaults: 5 s of cooldown after a 429, or where over half of a minute's calls, five or more, failed."""

    def __init__(self, run: Run, strategy: str) -> None:
        self._run = run
        self._strategy = strategy
        self._loop = asyncio.new_event_loop()
        self.restart()

    def restart(self) -> None:
        import litellm

        litellm.suppress_debug_info = True
        self._litellm = litellm
        with self._clock():
            self._routers = [self._router() for _ in range(self._run.replicas)]
            self._cooldowns = [Cooldowns(router) for router in self._routers]

    def _router(self) -> Any:
        deployments = [self._deployment(name) for name in self._run.providers]
        return self._litellm.Router(model_list=deployments, routing_strategy=self._strategy)

    def _deployment(self, name: str) -> dict[str, Any]:
        return {
            "model_name": MODEL,
            "litellm_params": {"model": f"openai/{name}", "api_key": "none", "api_base": "http://127.0.0.1:9"},
            "model_info": {"id": name},
        }

    @contextmanager
    def _clock(self) -> Iterator[None]:
        with patch("time.time", lambda: EPOCH_MS / 1000 + self._run.world.now):
            yield

    def choose(self, replica: int, tried: frozenset[str]) -> tuple[str, Any] | None:
        self._cooldowns[replica].end(self._run.world.now)
        with self._clock():
            try:  # a retry chooses anew, and may come to the same deployment
                found = self._routers[replica].get_available_deployment(
                    model=MODEL, messages=[{"role": "user", "content": "hi"}]
                )
            except (self._litellm.RateLimitError, ValueError):
                return None
        name = found["model_info"]["id"]
        return name, name

    def done(self, replica: int, ticket: Any, answer: Answer, seconds: float) -> None:
        router = self._routers[replica]
        end = EPOCH_MS / 1000 + self._run.world.now
        about = {
            "litellm_params": {"metadata": {"model_group": MODEL}, "model_info": {"id": ticket}},
            "exception": None if answer.status == 200 else self._error(answer),
        }
        with self._clock():
            self._loop.run_until_complete(self._tell(router, about, answer, end - seconds, end))
        if answer.status != 200:
            self._cooldowns[replica].note(ticket, self._run.world.now)

    async def _tell(self, router: Any, about: dict[str, Any], answer: Answer, begin: float, end: float) -> None:
        """In a loop, as its callbacks start tasks."""
        by_latency = self._strategy == "latency-based-routing"
        if answer.status == 200:
            router.sync_deployment_callback_on_success(about, None, begin, end)
            if by_latency:
                router.lowestlatency_logger.log_success_event(about, None, begin, end)
            return
        router.deployment_callback_on_failure(about, None, begin, end)
        if by_latency:
            await router.lowestlatency_logger.async_log_failure_event(about, None, begin, end)

    def _error(self, answer: Answer) -> Any:
        import httpx

        about = {"message": "incident", "llm_provider": "openai", "model": MODEL}
        if answer.status == 0:
            return self._litellm.Timeout(**about)
        headers = {} if answer.retry_after is None else {"retry-after": str(answer.retry_after)}
        response = httpx.Response(answer.status, headers=headers, request=httpx.Request("POST", "http://127.0.0.1:9"))
        kinds = {429: self._litellm.RateLimitError, 401: self._litellm.AuthenticationError}
        return kinds.get(answer.status, self._litellm.InternalServerError)(**about, response=response)


class Cooldowns:
    """Those of one Router, in virtual time: seconds."""

    def __init__(self, router: Any) -> None:
        self._cache = router.health().cooldowns
        self._known: dict[str, tuple[float, float]] = {}
        """By deployment: when the Router says that it began, on the machine's clock, and when it ends, on ours."""

    def note(self, name: str, now: float) -> None:
        """A call of this deployment failed, which may have begun its cooldown."""
        for _, cooldown in self._cache.get_active_cooldowns([name], None):
            began, _ = self._known.get(name, (None, 0.0))
            if began != cooldown["timestamp"]:
                self._known[name] = cooldown["timestamp"], now + cooldown["cooldown_time"]

    def end(self, now: float) -> None:
        """Those whose time is over."""
        for name in [name for name, (_, end) in self._known.items() if now >= end]:
            del self._known[name]
            self._cache.cooldown_store.evict_local(name)

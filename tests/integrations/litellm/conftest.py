"""LiteLLM's Router, with the fleet's breaker as a callback, before real HTTP servers."""

import asyncio
import importlib.util
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.fleet import QUICK
from tests.support.http import LlmServer, llm_server

QUESTION = [{"role": "user", "content": "Hello?"}]
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no download at import


@pytest.fixture
def litellm() -> Iterator[Any]:
    """The module, with its callbacks put back; none at all is a failure where CI asks for it, and a skip elsewhere."""
    if not importlib.util.find_spec("litellm"):
        (pytest.fail if os.environ.get("REDIS_ROUTER_NEEDS_LITELLM") else pytest.skip)("pip install -e '.[litellm]'")
    import litellm

    litellm.suppress_debug_info = True
    lists = ("callbacks", "_async_success_callback", "_async_failure_callback", "success_callback", "failure_callback")
    old = {name: list(getattr(litellm, name)) for name in lists}
    yield litellm
    for name, callbacks in old.items():
        setattr(litellm, name, callbacks)


class LiteFleet:
    """One process of a gateway: the breaker, LiteLLM's Router, and its deployments by id."""

    def __init__(self, litellm: Any, stack: ExitStack) -> None:
        self._litellm = litellm
        self._stack = stack
        self.servers: dict[str, LlmServer] = {}
        self.redis = f"memory://{secrets.token_hex(4)}"
        self.breaker: Any = None
        self.router: Any = None

    def start(self, *names: str, group: str = "gpt-4o", breaker: dict[str, Any] | None = None, **options: Any) -> None:
        """Deployments of these ids, one group; `options` are those of LiteLLM's Router."""
        from redis_router.integrations.litellm import FleetBreaker

        settings = {"circuit": QUICK, **(breaker or {})}
        self.breaker = FleetBreaker(settings.pop("redis", self.redis), **settings)
        self._stack.callback(self.breaker.router.close)
        self._litellm.callbacks = [self.breaker]
        options = {"disable_cooldowns": True, "num_retries": 0, "timeout": 10.0, **options}
        self.router = self._litellm.Router(model_list=[self.deployment(name, group) for name in names], **options)
        self.breaker.register(self.router.model_list)

    def deployment(self, name: str, group: str = "gpt-4o") -> dict[str, Any]:
        """One, with a server of its own."""
        if name not in self.servers:
            self.servers[name] = self._stack.enter_context(llm_server())
        params = {"model": "openai/gpt-4o", "api_key": "none", "api_base": f"{self.servers[name].url}/v1"}
        return {"model_name": group, "litellm_params": params, "model_info": {"id": name}}

    async def ask(self, **options: Any) -> Any:
        """One question; a stream is read to its end."""
        answer = await self.router.acompletion(**{"model": "gpt-4o", "messages": QUESTION, **options})
        if options.get("stream"):
            return [part async for part in answer]
        return answer

    async def asked(self, **options: Any) -> str:
        """The name of the error that it came to; '' for none."""
        try:
            await self.ask(**options)
        except Exception as error:
            return type(error).__name__
        return ""

    async def settled(self) -> None:
        """Until every call's end is known and recorded."""
        await until(lambda: self.breaker.calls_under_way == 0)
        assert await asyncio.to_thread(self.breaker.router.flush)

    def health(self, name: str) -> Any:
        """A deployment's record."""
        return self.breaker.router.get_health_status()[name]

    def calls(self, name: str) -> int:
        """So many reached its server."""
        return len(self.servers[name].asked)


async def until(condition: Callable[[], Any], timeout: float = 20.0) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.005)  # between two looks


@pytest.fixture
def lite(litellm: Any) -> Iterator[LiteFleet]:
    """A gateway, to be started by the test."""
    with ExitStack() as stack:
        yield LiteFleet(litellm, stack)

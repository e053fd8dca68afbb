"""What runs: the router, the connections to the providers, and the settings in force."""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from redis_router import Router, RouterError
from redis_router.gateway.errors import NO_KEY, UNKNOWN_KEY, Refusal
from redis_router.gateway.keys import Keys
from redis_router.gateway.question import presented_key
from redis_router.gateway.settings import Serving, Settings
from redis_router.gateway.upstreams import Upstreams
from redis_router.integrations.httpx import Upstream, failover
from redis_router.runtime.log import log

CLOSE_SECONDS = 5.0


class Service:
    """One process of the gateway.

    settings     in force
    keys         who may ask; None where everybody may
    transport    asks the providers, as the settings in force say
    is_draining  it will end soon: who routes to it should route elsewhere
    """

    def __init__(self, settings: Settings, told: Serving) -> None:
        self._tracing = _tracing() if told.traces else None
        self.router = self._made(settings, told)
        self.is_draining = False
        self._upstreams = Upstreams()
        self._works = told.works
        self.settings = settings
        self.use(settings)

    def _made(self, settings: Settings, told: Serving) -> Router[Upstream]:
        options: dict[str, Any] = {"namespace": told.namespace, "strategy": settings.strategy}
        if self._tracing is None:
            return Router(told.redis, **options)
        made: Router[Upstream] = self._tracing.traced_router(told.redis, settings, **options)
        return made

    def in_trace_of(self, headers: Mapping[bytes, bytes]) -> AbstractContextManager[None]:
        """For as long as a request of these headers is answered."""
        return nullcontext() if self._tracing is None else self._tracing.in_trace_of(headers)

    def who(self, headers: Mapping[bytes, bytes]) -> str:
        """The name of the key that a client shows; - where there are none. Raises Refusal."""
        if self.keys is None:
            return "-"
        shown = presented_key(headers)
        name = None if shown is None else self.keys.named(shown)
        if name is None:
            raise Refusal(401, "invalid_api_key", UNKNOWN_KEY if shown else NO_KEY, closes=True)
        return name

    def use(self, settings: Settings) -> None:
        """From the next request on; requests under way end as they began. Its `strategy` is not changed any more."""
        for provider in settings.providers:
            self.router.register_provider(provider)
        before, now = ({provider.name for provider in each.providers} for each in (self.settings, settings))
        for gone in before - now:
            self.router.deregister_provider(gone)
        self.settings = settings
        self.keys = Keys(settings.keys) if settings.keys else None
        self.transport: Any = failover(
            self.router,
            deadline=settings.deadline,
            first_token_timeout=settings.first_token_timeout,
            max_attempts=settings.max_attempts,
            fallbacks=settings.fallbacks or None,
            transport=self._upstreams,
        )

    def change_weights(self, settings: Settings) -> None:
        """Bring those that differ from the settings in force to the fleet, whose records keep what they have else."""
        old = {provider.name: provider.weight for provider in self.settings.providers}
        for provider in settings.providers:
            if old.get(provider.name, provider.weight) == provider.weight:
                continue
            try:
                self.router.update_health(
                    provider.name, weight=provider.weight, reason="the gateway's file", by="gateway"
                )
            except RouterError as error:
                log.warning("the weight of %s stays as it is: %s", provider.name, error)

    async def start(self) -> None:
        """Join the fleet, and take part in the election of the worker that moves due circuits."""
        await asyncio.to_thread(self.router.start)
        if self._works:
            self.router.start_health_checker()

    async def close(self) -> None:
        """Bring what was recorded to Redis; the connections end."""
        await self._upstreams.aclose()
        await asyncio.to_thread(self.router.close, CLOSE_SECONDS)
        log.info("gateway ends")


def _tracing() -> Any:
    """Imported where it is used: most gateways have no OpenTelemetry."""
    from redis_router.gateway import tracing

    return tracing

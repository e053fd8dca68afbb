"""Transports for clients of httpx and httpx2, and so for the SDKs above them.

`guard(router, "openai")` watches one provider. `failover(router)` asks several, each with an `Upstream` as its client.
Neither library is imported here: whichever sends the first request is used.
"""

from redis_router.integrations.httpx.transport import Transport, failover, guard
from redis_router.integrations.httpx.upstream import Upstream

__all__ = ["Transport", "Upstream", "failover", "guard"]

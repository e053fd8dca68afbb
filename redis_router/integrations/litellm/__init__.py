"""The fleet's breaker in LiteLLM's Router and proxy: a callback, on the public API of both.

breaker   the callback: which hook does what
calls     the calls under way: each ends once, however it ends
said      what LiteLLM's hooks are given, by the names that matter here
refusals  the error that a request gets where nobody may be called
"""

from redis_router.integrations.litellm.breaker import FleetBreaker
from redis_router.integrations.litellm.refusals import NobodyAvailable

__all__ = ["FleetBreaker", "NobodyAvailable"]

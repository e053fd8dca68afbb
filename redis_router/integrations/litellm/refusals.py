"""The error that a request gets where nobody may be called."""

import math
from collections.abc import Mapping

import httpx
import openai
from litellm.exceptions import NotFoundError, ServiceUnavailableError

from redis_router import NoProviderAvailable

LEAST_SECONDS = 1
"""Of `Retry-After`, which knows whole seconds only."""


class NobodyAvailable(ServiceUnavailableError, NotFoundError):
    """No deployment of a model may be called now: a 503 with the reasons, and `Retry-After` where one is known.

    reasons      deployment id -> why it is not called
    retry_after  seconds until the first may be back, None where that is unknown
    headers      of the proxy's answer

    It is a NotFoundError, too, since LiteLLM does not try again after one, whatever its status. After another 503 it
    would sleep out `Retry-After` before each of its retries, half a minute and more. Its fallbacks are tried at once.
    """

    def __init__(self, model: str, reasons: Mapping[str, str], retry_after: float | None) -> None:
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        after = "" if retry_after is None else f" (retry after {retry_after:.1f} s)"
        self.message = f"no deployment available for model {model[:200]!r}: {why}{after}"
        self.llm_provider, self.model = "", model
        self.litellm_debug_info = self.max_retries = None
        self.num_retries = 0  # LiteLLM reads it, too
        self.headers = {} if retry_after is None else {"retry-after": str(max(LEAST_SECONDS, math.ceil(retry_after)))}
        request = httpx.Request("POST", "http://redis-router.invalid")
        response = httpx.Response(503, headers=self.headers, request=request)
        openai.APIStatusError.__init__(self, self.message, response=response, body=None)
        self.status_code = 503
        self.reasons = dict(reasons)
        self.retry_after = retry_after

    @classmethod
    def because(cls, model: str, error: NoProviderAvailable) -> "NobodyAvailable":
        """In the library's words."""
        return cls(model, error.reasons, error.retry_after)

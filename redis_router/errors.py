"""The exception family: everything the library raises on purpose is a RouterError."""

from collections.abc import Mapping, Sequence


class RouterError(Exception):
    """Base of every error raised by redis_router. `code` is a stable word for logs and API answers."""

    code = "ROUTER_ERROR"


class InvalidArgument(RouterError, ValueError):
    """An argument was refused before anything was stored."""

    code = "ROUTER_INVALID_ARGUMENT"


class UnknownProvider(RouterError, LookupError):
    """A provider name that was never registered with this router."""

    code = "ROUTER_UNKNOWN_PROVIDER"


class RedisUnavailable(RouterError):
    """Redis could not be reached, or could not serve the command now; trying again later may help.

    Only operator calls (`update_health`, `set_circuit_config`, ...) raise it; `select_provider` and
    `record_result` never talk to Redis.
    """

    code = "ROUTER_REDIS_UNAVAILABLE"


class RedisRefused(RouterError):
    """Redis refused the command for good: wrong password, missing permission, or a key of another type."""

    code = "ROUTER_REDIS_REFUSED"


class AccessDenied(RedisRefused):
    """Redis refused the login, or a command that its user has no permission for."""

    code = "ROUTER_ACCESS_DENIED"


class NoProviderAvailable(RouterError):
    """No registered provider may serve this model now.

    model        the model asked for
    reasons      provider name -> why it was passed over, for every provider that serves the model
    retry_after  seconds until the first of them may be tried again, None where that is unknown
    """

    code = "ROUTER_NO_PROVIDER_AVAILABLE"

    def __init__(
        self, model: str, reasons: Mapping[str, str], retry_after: float | None = None, hint: str = ""
    ) -> None:
        self.model = model
        self.reasons = dict(reasons)
        self.retry_after = retry_after
        why = hint or "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
        after = "" if retry_after is None else f" (retry after {retry_after:.1f} s)"
        super().__init__(model, self.reasons, retry_after, hint)  # what a pickle is made from again
        self._text = f"no provider available for model {model[:200]!r}: {why}{after}"

    @classmethod
    def merged(cls, found: Sequence["NoProviderAvailable"]) -> "NoProviderAvailable":
        """One for several models; it is of the first."""
        if len(found) == 1:
            return found[0]
        reasons = {name: reason for each in found for name, reason in each.reasons.items()}
        waits = [each.retry_after for each in found if each.retry_after is not None]
        return cls(found[0].model, reasons, min(waits, default=None), "" if reasons else found[0].args[3])

    def __str__(self) -> str:
        return self._text

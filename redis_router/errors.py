"""The exception family: everything the library raises on purpose is a RouterError."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Why = tuple[dict[str, str], float | None, str]
"""Of a refusal: the reasons by provider, the seconds until one may be tried again, a hint in place of reasons."""


class RouterError(Exception):
    """Base of every error raised by redis_router. `code` is a stable word for logs and API answers."""

    code = "ROUTER_ERROR"


class InvalidArgument(RouterError, ValueError):
    """An argument was refused before anything was stored."""

    code = "ROUTER_INVALID_ARGUMENT"


class UnknownProvider(RouterError, LookupError):
    """A provider name that was never registered with this router."""

    code = "ROUTER_UNKNOWN_PROVIDER"

    @classmethod
    def among(cls, name: object, known: Iterable[str], known_as: str = "registered") -> "UnknownProvider":
        """With the names that there are."""
        return cls(f"unknown provider {name!r}: {known_as} are {', '.join(sorted(set(known))) or 'none'}")


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

    The reasons are put into words when somebody reads them: most refusals are caught, and wait or fall back.
    """

    code = "ROUTER_NO_PROVIDER_AVAILABLE"

    def __init__(
        self, model: str, reasons: Mapping[str, str], retry_after: float | None = None, hint: str = ""
    ) -> None:
        super().__init__(model)
        self.model = model
        self._why: Why | Callable[[], Why] = (dict(reasons), retry_after, hint)

    @classmethod
    def because(cls, model: str, why: Callable[[], Why]) -> "NoProviderAvailable":
        """`why` is asked once, when it is read."""
        error = cls(model, {})
        error._why = why
        return error

    @classmethod
    def merged(cls, found: Sequence["NoProviderAvailable"]) -> "NoProviderAvailable":
        """One for several models; it is of the first."""
        if len(found) == 1:
            return found[0]

        def why() -> Why:
            reasons = {name: reason for each in found for name, reason in each.reasons.items()}
            waits = [each.retry_after for each in found if each.retry_after is not None]
            return reasons, min(waits, default=None), "" if reasons else found[0]._said[2]

        return cls.because(found[0].model, why)

    @property
    def _said(self) -> Why:
        if callable(self._why):
            self._why = self._why()
        return self._why

    @property
    def reasons(self) -> dict[str, str]:
        return self._said[0]

    @property
    def retry_after(self) -> float | None:
        return self._said[1]

    def __str__(self) -> str:
        reasons, retry_after, hint = self._said
        why = hint or "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        after = "" if retry_after is None else f" (retry after {retry_after:.1f} s)"
        return f"no provider available for model {self.model[:200]!r}: {why}{after}"

    def __repr__(self) -> str:
        return f"NoProviderAvailable({self.model[:200]!r}, {self.reasons!r}, {self.retry_after!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.model, *self._said), {"__notes__": notes} if (notes := _notes_of(self)) else None


def _notes_of(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))

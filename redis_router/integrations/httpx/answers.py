"""Answers that are none: what a provider's failure looks like to the router, and what a client is told in its place."""

import json
import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from redis_router import NoProviderAvailable
from redis_router.integrations.httpx.library import body_class

Header = tuple[bytes, bytes]
NO_RETRY: Header = (b"x-should-retry", b"false")
"""The openai and anthropic SDKs obey it: they would multiply our tries by theirs."""
_MOST_CHARS = 300


class BadAnswer(Exception):
    """A provider answered, and it is no answer. `classify` reads `status_code`, `headers` and `body`.

    body   the JSON of it, where there is one, at least with the error
    parts  its bytes, as they came; of a long one, or one that broke off, not all
    told   who answered, for the client
    """

    def __init__(self, response: Any, parts: Iterable[bytes], body: Any = None, why: str = "") -> None:
        self.status_code: int = response.status_code
        self.headers = response.headers
        self.extensions = response.extensions
        self.body = body
        self.parts = list(parts)
        self.told: tuple[Header, ...] = ()
        super().__init__(": ".join(said for said in (f"HTTP {self.status_code}", why, _message_of(body)) if said))


def _message_of(body: Any) -> str:
    inner = body.get("error", body) if isinstance(body, dict) else None
    said = inner.get("message") if isinstance(inner, dict) else inner
    return said[:_MOST_CHARS] if isinstance(said, str) else ""


class Held:
    """Bytes that are at hand, as a stream."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = deque(parts)

    async def part(self) -> bytes | None:
        """The next bytes; None at the end."""
        return self._parts.popleft() if self._parts else None

    async def close(self) -> None:
        self._parts.clear()


def response_of(
    library: Any, answer: Any, parts: Any, more: Iterable[Header] = (), extensions: Mapping[str, Any] | None = None
) -> Any:
    """A response with the status and headers of `answer`, and `parts` as its stream."""
    headers = answer.headers.raw
    if more := tuple(more):
        names = {name for name, _ in more}
        headers = [header for header in headers if header[0].lower() not in names] + list(more)
    extensions = {**answer.extensions, **(extensions or {})}
    return library.Response(
        answer.status_code, headers=headers, stream=body_class(library)(parts), extensions=extensions
    )


def nobody(library: Any, anthropic: bool, error: NoProviderAvailable) -> Any:
    """503 with the reasons: nobody could be asked."""
    more = []
    if error.retry_after is not None:
        more.append((b"retry-after", str(math.ceil(error.retry_after)).encode()))
    kind = "overloaded_error" if anthropic else "server_error"
    return said(library, anthropic, 503, kind, error.code, str(error), {"reasons": error.reasons}, more)


def gone_wrong(library: Any, anthropic: bool, error: Exception) -> Any:
    """504 for a time-out, 502 for a connection that failed: an exception would be tried again by the SDK."""
    late = isinstance(error, library.TimeoutException)
    kind = "timeout_error" if late and anthropic else "api_error" if anthropic else "server_error"
    notes = list(getattr(error, "__notes__", ()))
    text = "; ".join((f"{type(error).__name__}: {error}"[:_MOST_CHARS], *notes))
    return said(library, anthropic, 504 if late else 502, kind, "ROUTER_PROVIDER_FAILED", text)


def said(
    library: Any,
    anthropic: bool,
    status: int,
    kind: str,
    code: str,
    message: str,
    more: dict[str, Any] | None = None,
    headers: Iterable[Header] = (),
) -> Any:
    """An answer of our own, in the shape of errors that the client's SDK reads."""
    error: dict[str, Any] = {"message": message, "type": kind, "code": code, **(more or {})}
    whole = {"type": "error", "error": error} if anthropic else {"error": {**error, "param": None}}
    content = json.dumps(whole).encode()
    base = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode()), NO_RETRY]
    return library.Response(status, headers=[*base, *headers], stream=body_class(library)(Held([content])))

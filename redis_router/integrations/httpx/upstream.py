"""Where a provider is, and how a client's request becomes one for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from redis_router import InvalidArgument
from redis_router.integrations.httpx.question import Question

_KEYS = ("x-api-key", "api-key", "authorization")
_OF_THE_CLIENT = frozenset((*_KEYS, "host", "content-length", "cookie", "openai-organization", "openai-project"))
"""Headers that are of the client, or of its account at somebody else: no provider gets them."""


@lru_cache(maxsize=256)
def _parsed(library: Any, url: str) -> Any:
    return library.URL(url)


@dataclass(frozen=True, slots=True)
class Upstream:
    """For `Provider(client=…)`: where the provider is, and what it wants to see.

    base_url     as its SDK takes it: https://api.openai.com/v1, https://api.anthropic.com
    api_key      its key, or a function that returns it; None to send none. The client's own key is never sent
    models       the names that this provider has for models, where they differ: {"gpt-4o": "my-deployment"}
    headers      to send beside, or in place of, those of the client
    api_version  of Azure's deployments: base_url is the resource, the model the deployment, the key goes in `api-key`

    The key is sent under the name that the client uses: `Authorization`, `x-api-key` or `api-key`.
    Raises InvalidArgument for what is no URL.
    """

    base_url: str
    api_key: str | Callable[[], str] | None = field(default=None, repr=False)
    models: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    api_version: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.base_url, str) or not self.base_url.startswith(("http://", "https://")):
            raise InvalidArgument(f"base_url is {self.base_url!r}: give a URL such as https://api.openai.com/v1")
        if "?" in self.base_url or "#" in self.base_url:
            raise InvalidArgument(f"base_url is {self.base_url!r}: leave out what follows the path")

    def request(self, question: Question, model: str) -> Any:
        """The client's request as this provider wants it, for that model."""
        there, asked, library = self.models.get(model, model), question.request, question.library
        url = _parsed(library, self._url(question, there))
        body = question.body_for(there)
        headers = [(b"Host", url.netloc), *self._headers(question, replayed=body is not None)]
        content = {"stream": asked.stream} if body is None else {"content": body}
        return library.Request(asked.method, url, headers=headers, extensions=dict(asked.extensions), **content)

    def _url(self, question: Question, model: str) -> str:
        base, query = self.base_url.rstrip("/"), question.request.url.query.decode("ascii")
        kept = [part for part in query.split("&") if part and not part.startswith("api-version=")]
        if self.api_version is not None:
            base = f"{base}/openai/deployments/{quote(model, safe='')}"
            kept.append(f"api-version={quote(self.api_version, safe='')}")
        return f"{base}/{question.path}{'?' if kept else ''}{'&'.join(kept)}"

    def _headers(self, question: Question, *, replayed: bool) -> list[tuple[Any, Any]]:
        asked = question.request.headers
        own = {name.lower(): value for name, value in self.headers.items()}
        if question.is_stream:
            own.setdefault("accept-encoding", "identity")  # events are read on their way
        if self.api_key is not None:
            key = self.api_key if isinstance(self.api_key, str) else self.api_key()
            name = next((name for name in _KEYS if name in asked), "authorization")
            name = "api-key" if self.api_version is not None else name
            own.setdefault(name, f"Bearer {key}" if name == "authorization" else key)
        left_out = _OF_THE_CLIENT | own.keys()
        kept = [(name, value) for name, value in asked.raw if name.decode("latin-1").lower() not in left_out]
        if not replayed and "content-length" in asked:
            kept.append((b"content-length", asked["content-length"].encode()))
        return [*kept, *own.items()]

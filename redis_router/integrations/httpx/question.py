"""What a client asks: for which model, below which path, in whose shape, and whether it can be asked twice."""

import json
import re
from dataclasses import dataclass
from typing import Any

from redis_router.integrations.httpx.library import library_of

SAID = "redis_router.said"
"""Of a request's extensions: the JSON of its body, where that was read already."""
_DEPLOYMENT = re.compile(r"/deployments/[^/]+/")


@dataclass(frozen=True, slots=True)
class Question:
    """A request of the client.

    body       its bytes; None where it is a stream, which can be sent once
    said       the JSON of the body, where it is an object
    path       what comes after the client's base URL
    anthropic  in the shape of Anthropic's API, else of OpenAI's
    """

    request: Any
    library: Any
    body: bytes | None
    said: dict[str, Any] | None
    path: str
    anthropic: bool

    @property
    def model(self) -> str | None:
        """The model that it names."""
        model = self.said.get("model") if self.said is not None else None
        return model if isinstance(model, str) and model else None

    @property
    def is_stream(self) -> bool:
        """Does it ask for a stream?"""
        return self.said is not None and self.said.get("stream") is True

    def body_for(self, model: str) -> bytes | None:
        """The body with another model; the same bytes where it names that one, or none."""
        if self.said is None or self.model in (None, model):
            return self.body
        said = {**self.said, "model": model}
        try:
            return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
        except UnicodeEncodeError:  # half of a surrogate pair, of a text that was cut there: only escaped it is JSON
            return json.dumps(said, separators=(",", ":")).encode()


def is_anthropic(request: Any) -> bool:
    """In the shape of Anthropic's API? All of its SDKs say which version of it."""
    return "anthropic-version" in request.headers


def question_of(request: Any, base_path: str | None) -> Question:
    """`base_path` is the path of the client's base URL; None to take it from the request."""
    library = library_of(request)
    try:
        body = request.content
    except library.RequestNotRead:
        body = None
    said = request.extensions.get(SAID)
    if said is None and body and _is_json(request):
        try:
            said = json.loads(body)
        except ValueError:
            said = None  # the provider says what is wrong with it
    anthropic = is_anthropic(request)
    path = request.url.raw_path.decode("ascii").partition("?")[0]
    rest = _after(path, base_path, anthropic)
    return Question(request, library, body, said if isinstance(said, dict) else None, rest, anthropic)


def _is_json(request: Any) -> bool:
    kind: str = request.headers.get("content-type", "")
    return kind.partition(";")[0].strip().lower() == "application/json"


def _after(path: str, base_path: str | None, anthropic: bool) -> str:
    if base_path is not None:
        return path.removeprefix(base_path.rstrip("/")).lstrip("/")
    if (found := _DEPLOYMENT.search(path)) is not None:
        return path[found.end() :]
    _, version, after = path.partition("/v1/")
    if not version:
        return path.lstrip("/")
    return f"v1/{after}" if anthropic else after

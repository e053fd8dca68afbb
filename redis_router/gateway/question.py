"""What comes in: headers, body, and which of it a provider gets."""

import asyncio
import json
import math
import random
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from redis_router.gateway.errors import Refusal
from redis_router.gateway.settings import ANTHROPIC, Settings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

BODY_SECONDS = 60.0
"""For a client to send its whole body."""
DEADLINE, FIRST_TOKEN = b"x-redis-router-deadline", b"x-redis-router-first-token-timeout"
"""Headers by which a request says its own, in seconds."""
_LEAST = 0.001
"""Of what `Router.attempts` takes."""
REQUEST_ID = b"x-request-id"
_GOOD_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_FORWARDED = frozenset(
    (
        b"accept",
        b"anthropic-beta",
        b"anthropic-version",
        b"idempotency-key",
        b"openai-beta",
    )
)
_AGENT = (b"user-agent", b"redis-router-gateway")
_ANTHROPIC_VERSION = b"2023-06-01"


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """By name, in lower case; one that came twice is one, with a comma between, as HTTP has it."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        found[name] = b"%s, %s" % (found[name], value) if name in found else value
    return found


def request_id_of(headers: Mapping[bytes, bytes]) -> bytes:
    """The client's, where it is one that a log can take; else a new one."""
    given = headers.get(REQUEST_ID, b"")
    return given if _GOOD_ID.fullmatch(given) else b"%032x" % random.getrandbits(128)  # no secret, so no system call


def presented_key(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The key that a client shows, as the SDKs of both APIs do."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        return token.strip()
    return headers.get(b"x-api-key") or headers.get(b"api-key")


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, most: int) -> bytes:
    """The whole body. Raises Refusal for one that is too long, too slow, compressed, or broken off."""
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise Refusal(415, "unsupported_encoding", "the body is compressed: send it as it is", closes=True)
    length = headers.get(b"content-length", b"0")
    too_long = Refusal(413, "request_too_large", f"the body is longer than {most} bytes", closes=True)
    if length.isdigit() and int(length) > most:
        raise too_long
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refusal(499, "client_closed_request", "the client hung up while it sent the body")
                part = message.get("body", b"")
                size += len(part)
                if size > most:
                    raise too_long
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        text = f"the body did not come within {BODY_SECONDS:.0f} s"
        raise Refusal(408, "request_timeout", text, closes=True) from None


def question_of(body: bytes, api: str, settings: Settings) -> dict[str, Any]:
    """The JSON of the body. Raises Refusal for what no provider of this gateway can be asked."""
    try:
        found = json.loads(body, object_pairs_hook=_with_one_model if _may_name_two(body) else None)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "invalid_json", f"the body is no JSON: {error}"[:300]) from None
    said: dict[str, Any] = found if isinstance(found, dict) else {}
    model = said.get("model")
    if not isinstance(model, str) or not model:
        raise Refusal(400, "missing_model", "the body names no model: see GET /v1/models")
    speaks = settings.apis.get(model)
    if speaks is None:
        raise Refusal(404, "model_not_found", f"the model {model[:200]!r} does not exist here: see GET /v1/models")
    if speaks != api:
        where = "/v1/messages" if speaks == ANTHROPIC else "/v1/chat/completions and its like"
        raise Refusal(400, "wrong_api", f"the model {model[:200]!r} is asked at {where}: nothing is translated here")
    return said


def _may_name_two(body: bytes) -> bool:
    """Models: a provider may read another one of them than we do. In a text, quotes are escaped."""
    return body.count(b'"model"') > 1 or b"\\u" in body


def _with_one_model(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if sum(name == "model" for name, _ in pairs) > 1:
        raise ValueError("it names two models")
    return dict(pairs)


def times_of(headers: Mapping[bytes, bytes], settings: Settings) -> dict[str, float]:
    """Options of `Router.attempts` that this request has for itself. Raises Refusal."""
    given: dict[str, float] = {}
    for name, option in ((DEADLINE, "deadline"), (FIRST_TOKEN, "first_token_timeout")):
        if (value := headers.get(name)) is not None:
            given[option] = _seconds(name, value, settings.longest_deadline)
    return given


def _seconds(name: bytes, value: bytes, most: float) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not _LEAST <= seconds <= most:
        shown = value[:40].decode("latin-1")
        raise Refusal(
            400, "invalid_header", f"{name.decode()} is {shown!r}: give seconds, from {_LEAST:g} up to {most:g}"
        )
    return seconds


def forwarded(headers: Mapping[bytes, bytes], api: str, settings: Settings) -> list[tuple[bytes, bytes]]:
    """The headers that a provider gets, beside its key: nothing that is not on the list leaves the gateway."""
    more = settings.forward_headers
    kept = [
        (name, value)
        for name, value in headers.items()
        if name in _FORWARDED or (more and name.decode("latin-1") in more)
    ]
    kept += [(b"content-type", b"application/json"), (b"accept-encoding", b"identity"), _AGENT]
    if api == ANTHROPIC:
        kept.append((b"x-api-key", b"-"))  # the provider's key takes its place
        if b"anthropic-version" not in headers:
            kept.append((b"anthropic-version", _ANTHROPIC_VERSION))
    else:
        kept = [pair for pair in kept if not pair[0].startswith(b"anthropic-")]
    return kept

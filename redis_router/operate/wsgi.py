"""The page for a server of threads, such as the worker's."""

import time
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any

from redis_router.operate.http import MOST_BODY, SECURITY_HEADERS, STREAM_HEADERS, Refused, Request, as_error, cut_short
from redis_router.operate.service import Service
from redis_router.operate.stream import LOOK_SECONDS, Stream

_DRAINED = 1_000_000
"""Bytes of a body that is too long are read, so that its sender hears why."""


class WsgiPage:
    """The WSGI application."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = _request(environ)
        answer = as_error(request) if isinstance(request, Refused) else self._service.answer(request)
        if isinstance(answer, Stream):
            start_response("200 OK", [*STREAM_HEADERS, *SECURITY_HEADERS])
            return _Sent(answer)
        start_response(f"{answer.status.value} {answer.status.phrase}", answer.all_headers)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else answer.body]


class _Sent:
    """What is sent of a stream. The server closes it, whether it was begun or not."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        while not self._stream.is_over:
            if found := self._stream.take():
                yield found
            else:
                time.sleep(LOOK_SECONDS)

    def close(self) -> None:
        self._stream.close()


def _request(environ: dict[str, Any]) -> Request | Refused:
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    headers["content-type"] = environ.get("CONTENT_TYPE") or ""
    said = environ.get("CONTENT_LENGTH") or "0"
    length = int(said) if said.isdecimal() and len(said) < 16 else MOST_BODY + 1
    if length > MOST_BODY:
        environ["wsgi.input"].read(min(length, _DRAINED))
        return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has {said} bytes: send at most {MOST_BODY}")
    body = environ["wsgi.input"].read(length) if length else b""
    if len(body) < length:
        return cut_short()
    return Request(
        environ["REQUEST_METHOD"],
        environ["PATH_INFO"].encode("latin-1").decode(errors="replace"),
        environ.get("QUERY_STRING", ""),
        headers,
        body,
        environ.get("REMOTE_ADDR", ""),
        environ["wsgi.url_scheme"] == "https",
    )

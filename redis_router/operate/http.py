"""What the page speaks: requests and answers, whatever server stands before it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from redis_router.errors import AccessDenied, InvalidArgument, RedisUnavailable, RouterError, UnknownProvider

MOST_BODY = 16_384
"""Bytes of a request's body."""

SECURITY_HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
"""Of every answer. No script and no style but our files; no other site may show the page in a frame."""

STREAM_HEADERS = (("Content-Type", "text/event-stream"), ("X-Accel-Buffering", "no"))
"""Of a stream: nginx would keep events until it has many."""


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks.

    path     without the part under which the page is mounted; percent signs decoded
    headers  by their names in lower case
    peer     the address from which it came; '' where that is unknown
    secure   did it come by HTTPS?
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    peer: str = ""
    secure: bool = False

    def asked(self, name: str) -> str | None:
        """A parameter of the query; None where it was not given."""
        return dict(parse_qsl(self.query, keep_blank_values=True)).get(name)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered; the headers of security come on top."""

    status: HTTPStatus
    body: bytes
    kind: str
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def all_headers(self) -> list[tuple[str, str]]:
        """As they are sent."""
        length = ("Content-Length", str(len(self.body)))
        return [("Content-Type", self.kind), length, *SECURITY_HEADERS, *self.headers]


class Refused(RouterError):
    """A request that is not carried out, with its HTTP status and, for clients, headers."""

    code = "ROUTER_REFUSED"

    def __init__(self, status: HTTPStatus, message: str, *headers: tuple[str, str], **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.details = details


def cut_short() -> Refused:
    """Of a body that did not come as it was announced: half of an action is none."""
    return Refused(HTTPStatus.REQUEST_TIMEOUT, "the body did not come, or not all of it: send the request again")


def as_json(found: Any, status: HTTPStatus = HTTPStatus.OK, *headers: tuple[str, str]) -> Answer:
    """An answer in JSON."""
    return Answer(status, f"{json.dumps(found)}\n".encode(), "application/json", headers)


def status_of(error: RouterError) -> HTTPStatus:
    """The HTTP status of an error of ours."""
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, InvalidArgument):
        return HTTPStatus.BAD_REQUEST
    if isinstance(error, UnknownProvider):
        return HTTPStatus.NOT_FOUND
    if isinstance(error, RedisUnavailable):
        return HTTPStatus.SERVICE_UNAVAILABLE
    return HTTPStatus.FORBIDDEN if isinstance(error, AccessDenied) else HTTPStatus.BAD_GATEWAY


def as_error(error: RouterError) -> Answer:
    """What went wrong: a word for programs, a sentence for people."""
    headers = error.headers if isinstance(error, Refused) else ()
    details = error.details if isinstance(error, Refused) else {}
    return as_json({"error": {"code": error.code, "message": str(error), **details}}, status_of(error), *headers)

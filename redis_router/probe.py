"""What a worker asks a provider to see whether it is there: a value that travels through Redis, without secrets."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from redis_router.checks import check_probe_url
from redis_router.errors import InvalidArgument

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""In a header's value: an environment variable of the worker."""
_METHODS = ("GET", "HEAD", "POST", "OPTIONS")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_SECRET = (
    "authorization",
    "proxy-authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "x-auth-token",
    "ocp-apim-subscription-key",
    "cookie",
)
_MOST_HEADERS, _MOST_CHARS = 16, 512


@dataclass(frozen=True, slots=True)
class Probe:
    """One HTTP request, or a TCP connection, that says whether a provider is there.

    url      http://…, https://… or tcp://host:port
    method   GET, HEAD, POST or OPTIONS; without a body
    headers  for instance {"Authorization": "Bearer ${OPENAI_API_KEY}"}: `${NAME}` is filled in by the worker from its
             own environment, where it was started with `--probe-env NAME`. All of it is stored in Redis in clear:
             headers that usually hold a secret are refused without such a variable
    status   the only HTTP status that passes; None for any below 400
    """

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int | None = None

    def __post_init__(self) -> None:
        check_probe_url("probe", self.url)
        if self.method not in _METHODS:
            raise InvalidArgument(f"method of the probe is {self.method!r}: choose {', '.join(_METHODS)}")
        if self.status is not None and (type(self.status) is not int or not 100 <= self.status <= 599):
            raise InvalidArgument(f"status of the probe is {self.status!r}: give an HTTP status, or None for below 400")
        if not isinstance(self.headers, Mapping) or len(self.headers) > _MOST_HEADERS:
            raise InvalidArgument(f"headers of the probe is {self.headers!r}: give at most {_MOST_HEADERS}, by name")
        for name, value in self.headers.items():
            _check_header(name, value)
        if self.url.startswith("tcp://") and (self.headers or self.status or self.method != "GET"):
            raise InvalidArgument(f"probe {self.url!r} only connects: method, headers and status go with http or https")
        object.__setattr__(self, "headers", dict(self.headers))

    def __hash__(self) -> int:
        return hash((self.url, self.method, self.status))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url, self.method, dict(self.headers), self.status)

    def to_json(self) -> str | dict[str, Any]:
        """As it stands in `rr:providers`: the URL, where that is all."""
        if self == Probe(self.url):
            return self.url
        return {"url": self.url, "method": self.method, "headers": dict(self.headers), "status": self.status}

    @classmethod
    def from_json(cls, said: Any) -> Self:
        """The inverse. Raises InvalidArgument, TypeError or KeyError for what is none."""
        if isinstance(said, str):
            return cls(said)
        return cls(**{name: said[name] for name in ("url", "method", "headers", "status") if name in said})


def _check_header(name: object, value: object) -> None:
    if not isinstance(name, str) or not _HEADER.fullmatch(name):
        raise InvalidArgument(f"header {name!r} of the probe has no usable name")
    if not isinstance(value, str) or len(value) > _MOST_CHARS or not value.isascii() or not value.isprintable():
        raise InvalidArgument(f"header {name} of the probe: give at most {_MOST_CHARS} printable ASCII characters")
    if name.lower() in _SECRET and not VARIABLE.search(value):
        raise InvalidArgument(
            f"header {name} of the probe would stand in Redis in clear: name an environment variable of the worker"
            " instead, such as 'Bearer ${OPENAI_API_KEY}'"
        )

"""httpx or httpx2: whichever made the request that came. Their classes have the same names."""

import sys
from collections.abc import AsyncIterator, Iterator
from functools import cache
from typing import Any

from redis_router.integrations.httpx.ways import run


def library_of(request: object) -> Any:
    """The module that a request belongs to, also where somebody derived from its class. Raises TypeError."""
    kind = type(request)
    if kind not in _KNOWN:
        _KNOWN[kind] = _library_of(kind)
    return _KNOWN[kind]


_KNOWN: dict[type, Any] = {}


def _library_of(kind: type) -> Any:
    for base in kind.__mro__:
        module = sys.modules.get(base.__module__.partition(".")[0])
        if hasattr(module, "AsyncHTTPTransport") and hasattr(module, "SyncByteStream"):
            return module
    raise TypeError(f"{kind.__module__}.{kind.__qualname__} is no request of httpx or httpx2")


@cache
def body_class(library: Any) -> type:
    """A stream as that library wants it, from an object with `part` and `close`: both are coroutines."""
    members = {"__init__": _init, "__iter__": _iterate, "close": _close, "__aiter__": _iterate_async, "aclose": _aclose}
    return type("Body", (library.SyncByteStream, library.AsyncByteStream), members)


def _init(self: Any, parts: Any) -> None:
    self.parts = parts


def _iterate(self: Any) -> Iterator[bytes]:
    while (part := run(self.parts.part())) is not None:
        yield part


async def _iterate_async(self: Any) -> AsyncIterator[bytes]:
    while (part := await self.parts.part()) is not None:
        yield part


def _close(self: Any) -> None:
    run(self.parts.close())


async def _aclose(self: Any) -> None:
    await self.parts.close()

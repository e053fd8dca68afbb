"""An event loop whose look-ups of names hold up nobody.

asyncio gives them to a pool of a few threads that the interpreter waits for when it exits: where a resolver hangs, so
do all other names, and the end of the process. Here each runs in a daemon thread of its own, at most one for each name.
"""

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any

AT_ONCE = 512
"""So many threads may hang. Twice the probes that run at the same time: each of those finds one."""


Found = list[Any] | Exception
"""What a look-up brought. An exception is no less of a result: where nobody waits any more, it is nobody's."""


class NoLookUp(Exception):
    """The name was not looked up; says nothing about whom it names. No OSError: HTTP clients pass it on as it is."""


class LookUpLoop(asyncio.SelectorEventLoop):
    """A loop with a `getaddrinfo` of its own. One that waits for it may be cancelled; the look-up then ends alone."""

    def __init__(self) -> None:
        super().__init__()
        self._lookups: dict[tuple[Any, ...], asyncio.Future[Found]] = {}

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """As `socket.getaddrinfo`. Raises NoLookUp as well, where too many hang."""
        question = (host, port, family, type, proto, flags)
        lookup = self._lookups.get(question)
        if lookup is None:
            if len(self._lookups) >= AT_ONCE:
                raise NoLookUp(f"{AT_ONCE} look-ups of names hang: is the resolver of this machine all right?")
            lookup = self.create_future()
            thread = threading.Thread(
                target=self._look_up, args=(question, lookup), name="redis-router-lookup", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:
                raise NoLookUp(str(error)) from error
            self._lookups[question] = lookup
        found = await asyncio.shield(lookup)
        if isinstance(found, Exception):
            raise found
        return found

    def _look_up(self, question: tuple[Any, ...], lookup: asyncio.Future[Found]) -> None:
        """In its thread."""
        found: Found
        try:
            found = socket.getaddrinfo(*question)
        except Exception as error:
            found = error
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self.call_soon_threadsafe(self._ended, question, lookup, found)

    def _ended(self, question: tuple[Any, ...], lookup: asyncio.Future[Found], found: Found) -> None:
        del self._lookups[question]
        if not lookup.cancelled():
            lookup.set_result(found)

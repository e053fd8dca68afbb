"""uvicorn's protocol with bounds: a client that sends a head without end, or one byte a minute, is cut off."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from redis_router.gateway.exchange import CUT_OFF

MOST_HEAD = 64 << 10
"""Bytes of a request's line and headers."""
HEAD_SECONDS = 15.0
"""For them to come."""


class Bounded(HttpToolsProtocol):
    """For `uvicorn.Config(http=…)`."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        extensions: Any = {CUT_OFF: self._cut_off}
        self.scope["extensions"] = extensions
        if self._late is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        self._head_came()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._late is None:
            return
        self._seen += len(data)
        if self._seen > MOST_HEAD and not self.transport.is_closing():
            text = b"request header fields too large"
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain\r\nconnection: close\r\n"
                b"content-length: %d\r\n\r\n%s" % (len(text), text)
            )
            self.transport.close()

    def _await_head(self) -> None:
        self._seen = 0
        self._late: asyncio.TimerHandle | None = self.loop.call_later(HEAD_SECONDS, self._cut_off)

    def _head_came(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _cut_off(self) -> None:
        if self.cycle is not None:
            self.cycle.disconnected = True  # now, so that uvicorn complains of no answer without an end
        self.transport.abort()

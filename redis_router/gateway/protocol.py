"""uvicorn's protocol with bounds: who sends a head without end, or takes nothing, is cut off."""

import asyncio
import sys
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from redis_router.gateway.exchange import CUT_OFF

MOST_HEAD = 64 << 10
"""Bytes of a request's line and headers."""
HEAD_SECONDS = 15.0
"""For them to come."""
_OF_UPGRADES = (b"connection", b"upgrade", b"http2-settings")
TAKE_SECONDS = 60.0
"""For a client to take what was sent."""


class Bounded(HttpToolsProtocol):
    """For `uvicorn.Config(http=…)`."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._untaken: asyncio.TimerHandle | None = None
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        self._taken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._untaken = self.loop.call_later(TAKE_SECONDS, self._cut_off)

    def resume_writing(self) -> None:
        self._taken()
        super().resume_writing()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        extensions: Any = {CUT_OFF: self._cut_off}
        self.scope["extensions"] = extensions
        if self._late is None:
            self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._late is not None:  # else it stands after the body, where nobody reads it
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._brings = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._brings = True
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        self._head_came()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        had_head, self._brings, self._data = self._late is None, False, data
        super().data_received(data)
        self._data = b""
        has_head = self._late is None
        if self._brings or has_head != had_head or self.transport.is_closing():
            return
        self._seen += len(data)
        if self._seen <= MOST_HEAD:
            return
        if has_head:  # neither a body nor its end: chunks' extensions, or headers after the body
            self._cut_off()
        else:
            text = b"request header fields too large"
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain\r\nconnection: close\r\n"
                b"content-length: %d\r\n\r\n%s" % (len(text), text)
            )
            self.transport.close()

    def _should_upgrade(self) -> bool:
        """Yes, as uvicorn would drop the body: it hands the request over to the method below."""
        return bool(self.scope["method"] != "CONNECT")

    def handle_websocket_upgrade(self) -> None:
        """Nothing is upgraded. The request is read as if it hadn't asked, as Java's client does with each request."""
        upgrade = sys.exception()
        rest = self._data[upgrade.args[0] :] if upgrade is not None else b""
        line = (self.scope["method"].encode(), self.url, b"HTTP/" + self.scope["http_version"].encode())
        kept = [b"%s: %s" % header for header in self.headers if header[0] not in _OF_UPGRADES]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join((b" ".join(line), *kept, b"", rest)))

    def _await_head(self) -> None:
        self._seen = 0
        self._late: asyncio.TimerHandle | None = self.loop.call_later(HEAD_SECONDS, self._cut_off)

    def _head_came(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
            self._seen = 0

    def _taken(self) -> None:
        if self._untaken is not None:
            self._untaken.cancel()
            self._untaken = None

    def _cut_off(self) -> None:
        if self.cycle is not None:
            self.cycle.disconnected = True  # now, so that uvicorn complains of no answer without an end
        self.transport.abort()

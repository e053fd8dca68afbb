"""A provider that answers at once, and costs little: `python -m benchmarks.gateway.provider`, a process of its own.

It prints its port. A stream has EVENTS events, each sent by itself; GAP seconds lie between them, so that nobody on the
way can put them together. With `max_tokens` in the request it has four, GAP seconds apart, too.
"""

import asyncio
import json
from typing import Any

import uvloop

EVENTS = 100
GAP = 0.002
TEXT = "An answer has some two hundred words, as those of a chat often do. " * 16
"""About 1 kB."""
FIRST_CONTENT = b'"content":"word '
"""In the first event of a stream that has content."""


def answer() -> bytes:
    """A whole answer of /v1/chat/completions."""
    said = {
        "id": "chatcmpl-0123456789", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 120, "completion_tokens": 200, "total_tokens": 320},
    }  # fmt: skip
    body = json.dumps(said).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def events() -> list[bytes]:
    """The parts of a stream, each a chunk of HTTP: the first says the role, the last [DONE]."""
    deltas = [{"role": "assistant", "content": ""}, *({"content": f"word {number} "} for number in range(EVENTS - 2))]
    made = [_event(delta, None) for delta in deltas] + [_event({}, "stop") + b"data: [DONE]\n\n"]
    chunks = [b"%x\r\n%s\r\n" % (len(each), each) for each in made]
    return [*chunks[:-1], chunks[-1] + b"0\r\n\r\n"]


def _event(delta: dict[str, str], finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    said = {"id": "chatcmpl-0123456789", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: %s\n\n" % json.dumps({**said, "choices": [choice]}, separators=(",", ":")).encode()


ANSWER, STREAM = answer(), events()
SHORT = [*STREAM[:3], STREAM[-1]]
BEGIN = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Provider(asyncio.Protocol):
    """A connection; its requests come one after the other."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._seen = b""

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, end, body = self._seen.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(body) < length:
            return
        self._seen = b""
        if b'"stream":true' in body.replace(b" ", b""):
            parts = SHORT if b'"max_tokens"' in body else STREAM
            asyncio.create_task(self._stream(parts))  # noqa: RUF006 - it ends by itself, soon
        else:
            self._transport.write(ANSWER)

    async def _stream(self, parts: list[bytes]) -> None:
        self._transport.write(BEGIN)
        for part in parts:
            if self._transport.is_closing():
                return
            self._transport.write(part)
            await asyncio.sleep(GAP)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())

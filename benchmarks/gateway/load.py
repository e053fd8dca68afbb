"""Raw HTTP/1.1 requests over kept connections: as little CPU for the asking as can be."""

import asyncio
import json
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import uvloop

from benchmarks.gateway.provider import FIRST_CONTENT

MESSAGES = [
    {"role": "system", "content": "You answer in plain English, and briefly. " * 4},
    {"role": "user", "content": "Why do the leaves of trees turn yellow in autumn? " * 8},
]
"""About 600 bytes."""


@dataclass(frozen=True)
class Target:
    """Where to ask: a base on this machine, with the key that it wants."""

    name: str
    port: int
    key: str = "-"

    def request(self, **more: Any) -> bytes:
        """A request as bytes; `more` is in its JSON."""
        body = json.dumps({"model": "m", "messages": MESSAGES, **more}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.key}\r\nUser-Agent: load\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Connection:
    """One, on which requests follow each other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, target: Target) -> "Connection":
        """A new one."""
        return cls(*await asyncio.open_connection("127.0.0.1", target.port))

    async def ask(self, request: bytes) -> tuple[float, float]:
        """Seconds until the first content, or the first bytes of a body, and until the end. Raises AssertionError."""
        began, first = time.perf_counter(), 0.0
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        assert head[9:12] == b"200", head + await self._reader.read(500)
        _, counted, rest = head.partition(b"content-length:")
        if counted:
            await self._reader.readexactly(int(rest.partition(b"\r\n")[0]))
        else:
            while size := int(await self._reader.readline(), 16):
                part = await self._reader.readexactly(size + 2)
                if not first and FIRST_CONTENT in part:
                    first = time.perf_counter() - began
            await self._reader.readline()
        took = time.perf_counter() - began
        return first or took, took

    def close(self) -> None:
        """It is needed no more."""
        self._writer.close()


async def _singly(targets: list[Target], number: int, more: dict[str, Any]) -> dict[str, list[float]]:
    """One request at a time, a target after the other, so that what disturbs the machine meets all alike."""
    connections = [await Connection.to(target) for target in targets]
    requests = [target.request(**more) for target in targets]
    found: dict[str, list[float]] = {target.name: [] for target in targets}
    for turn in range(number + 1):
        for target, connection, request in zip(targets, connections, requests, strict=True):
            first, _ = await connection.ask(request)
            if turn:  # the first warms up
                found[target.name].append(first)
    for connection in connections:
        connection.close()
    return found


async def _together(target: Target, connections: int, seconds: float, more: dict[str, Any]) -> tuple[int, float]:
    request, done = target.request(**more), 0
    end = time.perf_counter() + seconds

    async def keeps_asking() -> None:
        nonlocal done
        connection = await Connection.to(target)
        while time.perf_counter() < end:
            await connection.ask(request)
            done += 1
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(keeps_asking() for _ in range(connections)))
    return done, time.perf_counter() - began


def singly(targets: list[Target], number: int, **more: Any) -> dict[str, list[float]]:
    """Seconds of so many requests to each: until the end, or the first content of a stream."""
    return _run(_singly(targets, number, more))


def together(target: Target, connections: int, seconds: float, **more: Any) -> tuple[int, float]:
    """How many requests were answered, and in how many seconds; each connection asks again when it was answered."""
    return _run(_together(target, connections, seconds, more))


def _run(asking: Coroutine[Any, Any, Any]) -> Any:
    return uvloop.run(asking)

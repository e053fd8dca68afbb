"""What stands before several gateways: a TCP balancer that asks each whether it is ready, as Kubernetes does."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count

EACH = 0.1
"""Seconds between two checks."""


class Balancer:
    """New connections go, in turn, to those of `ports` whose `path` says 200."""

    def __init__(self, path: str) -> None:
        self._path = path.encode()
        self.ports: list[int] = []
        self.port = 0
        self._ready: list[int] = []
        self._turns = count()

    async def _serve(self, started: threading.Event, ended: asyncio.Event) -> None:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        checking = asyncio.create_task(self._check())
        await ended.wait()
        checking.cancel()
        server.close()

    async def _check(self) -> None:
        while True:
            self._ready = [port for port in list(self.ports) if await self._is_ready(port)]
            await asyncio.sleep(EACH)

    async def _is_ready(self, port: int) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        try:
            writer.write(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % self._path)
            return b" 200 " in await reader.readline()
        except OSError:
            return False
        finally:
            writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ready = self._ready
        try:
            there, back = await asyncio.open_connection("127.0.0.1", ready[next(self._turns) % len(ready)])
        except (OSError, ZeroDivisionError):
            writer.close()
            return
        await asyncio.gather(self._pass(reader, back), self._pass(there, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                while part := await reader.read(65536):
                    writer.write(part)
                    await writer.drain()
        finally:
            writer.close()


@contextmanager
def balancer(path: str = "/readyz") -> Iterator[Balancer]:
    """One that serves until the block ends."""
    made, started = Balancer(path), threading.Event()
    loop, ended = asyncio.new_event_loop(), asyncio.Event()

    def run() -> None:
        loop.run_until_complete(made._serve(started, ended))
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.wait(left) if left else asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))  # in which closed connections are let go
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()

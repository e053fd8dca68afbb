"""The processes of a run: forked from one that has imported everything, each with a pipe to whoever started it.

A fork of a process that is warm costs little, so that a run begins soon; what it shares with others is memory only.
"""

import asyncio
import gc
import multiprocessing
from collections.abc import Callable, Coroutine, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

PATIENCE = 60.0
"""Seconds until a process has started, or has ended."""
CONTEXT = multiprocessing.get_context("forkserver")

Main = Callable[..., Coroutine[Any, Any, None]]


def prepare(modules: Sequence[str]) -> None:
    """Import these once, for all processes that are started later."""
    CONTEXT.set_forkserver_preload(list(modules))


class Pipe:
    """The end of the process: in asyncio, messages to and from whoever started it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def tell(self, message: object) -> None:
        self._connection.send(message)

    async def hear(self) -> Any:
        """The next message; None where nobody will send one any more."""
        try:
            return await asyncio.to_thread(self._connection.recv)
        except EOFError:
            return None


class Child:
    """A process that runs `main(pipe, *arguments)`. It should end when its pipe is closed; else it is killed."""

    def __init__(self, main: Main, *arguments: object) -> None:
        self.name = main.__module__
        self._connection, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_run, args=(main, theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    def tell(self, message: object) -> None:
        self._connection.send(message)

    def hear(self, seconds: float = PATIENCE) -> Any:
        """The next message. Raises RuntimeError where none comes in time, or the process ended."""
        if not self._connection.poll(seconds):
            raise RuntimeError(f"{self.name} said nothing for {seconds:g} s")
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join(1.0)
            raise RuntimeError(f"{self.name} ended with exit code {self._process.exitcode}") from None

    def close(self) -> None:
        """Let it end by itself."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._process.join(5.0)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._process.close()


def _run(main: Main, connection: Connection, *arguments: object) -> None:
    gc.freeze()  # what was imported beforehand is nobody's garbage: a policy should not pay for another one's modules
    asyncio.run(main(Pipe(connection), *arguments))

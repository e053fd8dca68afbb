"""Makes probes in the background: one event loop in a daemon thread, so that a provider that hangs costs a socket.

Each probe is bounded as a whole, from the moment when it begins: a server that drips cannot prolong it. What a probe
said comes back as a Verdict, taken from a queue. Nobody waits for probes, least of all the end of the process.
"""

import asyncio
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from queue import Empty, SimpleQueue

from redis_router.probe import Probe
from redis_router.runtime.alarm import Alarm
from redis_router.worker.lookups import LookUpLoop
from redis_router.worker.probes import Asker, NotAsked, ProbeFailed, ProbeImpossible

AT_ONCE = 256
"""So many probes run at the same time; those beyond wait, for at most the timeout for each so many that hang."""


class Said(StrEnum):
    """What came of a probe. The last two are no word on the provider."""

    PASSES = "passes"
    FAILS = "fails"
    IMPOSSIBLE = "impossible"
    NOT_ASKED = "not_asked"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one probe, and why; `began` is the monotonic moment when it was really begun."""

    probe: Probe
    began: float
    said: Said
    why: str = ""


class Prober:
    """One thread uses it. `wake` rings with each verdict; `timeout` is in seconds, for all of a probe."""

    def __init__(self, timeout: float, env: Collection[str], wake: Alarm) -> None:
        self.timeout = timeout
        self.verdicts: SimpleQueue[Verdict] = SimpleQueue()
        self._asker = Asker(env)
        self._wake = wake
        self._loop: LookUpLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._closed = asyncio.Event()

    def start(self, probe: Probe) -> None:
        """Make this probe as soon as there is room."""
        try:
            loop = self._running_loop()
        except (OSError, RuntimeError) as error:  # no file or no thread to be had
            self._say(Verdict(probe, time.monotonic(), Said.NOT_ASKED, str(error)))
            return
        loop.call_soon_threadsafe(self._begin, loop, probe)

    def next_verdict(self) -> Verdict | None:
        """The next one that came in, None where there is none."""
        try:
            return self.verdicts.get_nowait()
        except Empty:
            return None

    def close(self) -> None:
        """Give up all probes, without waiting for it."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it is closed already
                self._loop.call_soon_threadsafe(self._closed.set)

    def _running_loop(self) -> LookUpLoop:
        if self._loop is None:
            loop = LookUpLoop()
            try:
                threading.Thread(target=self._run, args=(loop,), name="redis-router-prober", daemon=True).start()
            except RuntimeError:
                loop.close()
                raise
            self._loop = loop
        return self._loop

    def _say(self, verdict: Verdict) -> None:
        self.verdicts.put(verdict)
        self._wake.ring()

    # On the loop

    def _run(self, loop: LookUpLoop) -> None:
        self._asker.load()
        with asyncio.Runner(loop_factory=lambda: loop) as runner:  # cancels at its end what still runs
            runner.run(self._until_closed())

    async def _until_closed(self) -> None:
        await self._closed.wait()

    def _begin(self, loop: LookUpLoop, probe: Probe) -> None:
        task = loop.create_task(self._make(probe))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _make(self, probe: Probe) -> None:
        async with self._slots:
            began = time.monotonic()
            said, why = await self._ask(probe)
        self._say(Verdict(probe, began, said, why))

    async def _ask(self, probe: Probe) -> tuple[Said, str]:
        try:
            async with asyncio.timeout(self.timeout):
                await self._asker.ask(probe)
        except TimeoutError:
            return Said.FAILS, f"no answer within {self.timeout:g} s"
        except ProbeFailed as failure:
            return Said.FAILS, str(failure)
        except ProbeImpossible as error:
            return Said.IMPOSSIBLE, error.why
        except NotAsked as error:
            return Said.NOT_ASKED, str(error)
        return Said.PASSES, ""

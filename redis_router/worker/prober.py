"""Makes probes in the background: one event loop in a daemon thread, so that a provider that hangs costs a socket.

Each probe is bounded as a whole, from the moment when it begins: a server that drips cannot prolong it. Results are
taken from a queue. Nobody waits for probes, least of all the end of the process.
"""

import asyncio
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from queue import Empty, SimpleQueue

from redis_router.probe import Probe
from redis_router.runtime.alarm import Alarm
from redis_router.worker.lookups import LookUpLoop
from redis_router.worker.options import WorkerOptions
from redis_router.worker.probes import Asker, NotAsked, ProbeFailed, ProbeImpossible

AT_ONCE = 256
"""So many probes run at the same time; those beyond wait, for at most the timeout for each so many that hang."""


class ProbeOutcome(StrEnum):
    """What came of a probe. The last two say nothing about the provider."""

    PASSED = "passed"
    FAILED = "failed"
    IMPOSSIBLE = "impossible"
    NOT_ASKED = "not_asked"

    @property
    def is_final(self) -> bool:
        """Does it say something about the provider?"""
        return self in (ProbeOutcome.PASSED, ProbeOutcome.FAILED)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What came of one probe, and why; `began` is the monotonic moment when it was really begun."""

    probe: Probe
    began: float
    outcome: ProbeOutcome
    why: str = ""


class Prober:
    """One thread uses it. `wake` rings with each result."""

    def __init__(self, options: WorkerOptions, wake: Alarm) -> None:
        self.results: SimpleQueue[ProbeResult] = SimpleQueue()
        self._timeout = options.probe_timeout
        self._asker = Asker(options)
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
            self._tell(ProbeResult(probe, time.monotonic(), ProbeOutcome.NOT_ASKED, str(error)))
            return
        loop.call_soon_threadsafe(self._begin, loop, probe)

    def next_result(self) -> ProbeResult | None:
        """The next one that came in, None where there is none."""
        try:
            return self.results.get_nowait()
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

    def _tell(self, result: ProbeResult) -> None:
        self.results.put(result)
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
            outcome, why = await self._ask(probe)
        self._tell(ProbeResult(probe, began, outcome, why))

    async def _ask(self, probe: Probe) -> tuple[ProbeOutcome, str]:
        try:
            async with asyncio.timeout(self._timeout):
                await self._asker.ask(probe)
        except TimeoutError:
            return ProbeOutcome.FAILED, f"no answer within {self._timeout:g} s"
        except ProbeFailed as error:
            return ProbeOutcome.FAILED, str(error)
        except ProbeImpossible as error:
            return ProbeOutcome.IMPOSSIBLE, str(error)
        except NotAsked as error:
            return ProbeOutcome.NOT_ASKED, str(error)
        return ProbeOutcome.PASSED, ""

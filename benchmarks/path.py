"""The user's path: what becomes of requests through one trouble after the other, with each integration and without it.

    python -m benchmarks.path
    python -m benchmarks.path --only failover --quick

Two gateway processes of each kind stand before two providers over HTTP, "bad" and "good", and share a Redis. Requests
come ten a second, to both in turn. Troubles follow one another; between them it is waited until "bad" is asked again,
and its record is reset. At last Redis is restarted, and then, while "bad" is down, each process is replaced: the new
one takes the requests, the old one ends those that it has and closes.
"""

import argparse
import asyncio
import importlib.util
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gateways import KINDS
from redis_router import Operator
from redis_router.cli.terminal import EndedBySignals
from redis_router.testing.server import EmbeddedServer
from tests.support.http import LlmServer, llm_server

PAUSE = 0.1
"""Seconds between two requests."""
RECOVERS = 30.0
"""Seconds that are waited for a provider that is well again."""
TROUBLES: dict[str, tuple[bool, Any]] = {
    "answers 503": (False, (503, {})),
    "answers 401": (False, (401, {})),
    "answers 429, for 5 s": (False, (429, {"retry-after": "5"})),
    "answers garbage": (False, "garbage"),
    "hangs": (False, "hang"),
    "hangs after its headers, in a stream": (True, "silent"),
    "breaks streams before their content": (True, "cut_early"),
    "ends streams with an error event, before their content": (True, "overloaded_early"),
    "breaks streams after their first content": (True, "cut"),
}
RECOVERED, REDIS, ROLLING = "is well again, nine times", "Redis is restarted", "is down; the processes are replaced"


@dataclass
class Row:
    """What became of the requests of one trouble."""

    requests: int = 0
    failed: int = 0
    slowest: float = 0.0
    to_bad: int = 0

    def text(self) -> str:
        return f"{self.failed} of {self.requests}, {self.slowest:.1f} s, {self.to_bad}"


@dataclass
class Gateway:
    """One process; each line to it is a request, and each line of it says what became of one."""

    process: asyncio.subprocess.Process
    waiting: dict[int, "asyncio.Future[bool]"] = field(default_factory=dict)
    reading: "asyncio.Task[None] | None" = None

    async def ask(self, number: int, stream: bool) -> bool:
        self.waiting[number] = answered = asyncio.get_running_loop().create_future()
        self._say({"number": number, "stream": stream})
        return await answered

    async def end(self) -> int:
        """It takes no more, ends what it has, closes; its exit code."""
        self._say({"end": True})
        assert self.reading is not None
        await self.reading
        return await self.process.wait()

    def _say(self, words: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words).encode() + b"\n")

    async def read(self) -> None:
        async for line in _lines(self.process.stdout):
            said = json.loads(line)
            self.waiting.pop(said["number"]).set_result(said["answered"])
        for each in self.waiting.values():  # it died
            each.set_result(False)


async def _lines(stream: Any) -> AsyncIterator[bytes]:
    while line := await stream.readline():
        if line.startswith(b"{"):  # LiteLLM prints what it likes
            yield line


async def started(kind: str, redis: str, urls: list[str]) -> Gateway:
    """One that can be asked."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.gateways", kind, redis, *urls,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    lines = _lines(process.stdout)
    assert json.loads(await anext(lines)) == {"ready": True}
    gateway = Gateway(process)
    gateway.reading = asyncio.create_task(gateway.read())
    return gateway


class Path:
    """One kind of gateway on its way."""

    def __init__(self, kind: str, redis: EmbeddedServer, bad: LlmServer, good: LlmServer, number: int) -> None:
        self.kind, self.redis, self.bad, self.good, self.number = kind, redis, bad, good, number
        self.gateways: list[Gateway] = []
        self.asked = 0
        self.rows = {name: Row() for name in (*TROUBLES, RECOVERED, REDIS, ROLLING)}
        self.lost = 0

    async def start(self) -> Gateway:
        return await started(self.kind, self.redis.url, [self.bad.url, self.good.url])

    async def walk(self) -> None:
        """All of it."""
        self.gateways = [await self.start(), await self.start()]
        await self._while(Row(), False, self._for(4))
        for name, (stream, fault) in TROUBLES.items():
            self.bad.always = fault
            await self._while(self.rows[name], stream, self._for(self.number))
            print(f"  {name}: {self.rows[name].text()}", flush=True)
            self.bad.always = None
            await self._while(self.rows[RECOVERED], False, self._until_asked())
            await asyncio.to_thread(self._forget)
        await self._while(self.rows[REDIS], False, self._restart_redis())
        self.bad.always = (503, {})
        await asyncio.sleep(2.0)  # what was recorded has reached Redis
        before = self._recorded(), len(self.good.asked)
        await self._while(self.rows[ROLLING], False, self._replace())
        for gateway in self.gateways:
            assert await gateway.end() == 0
        self.lost = (len(self.good.asked) - before[1]) - (self._recorded() - before[0])

    async def _while(self, row: Row, stream: bool, something: Any) -> None:
        """Requests at their pace, as long as something goes on; then those under way end."""
        going, asking, before = asyncio.create_task(something), list[Any](), len(self.bad.asked)
        while not going.done():
            asking.append(asyncio.create_task(self._ask(row, stream)))
            await asyncio.sleep(PAUSE)
        await going
        await asyncio.gather(*asking)
        row.to_bad += len(self.bad.asked) - before

    async def _ask(self, row: Row, stream: bool) -> None:
        self.asked += 1
        at = time.perf_counter()
        answered = await self.gateways[self.asked % len(self.gateways)].ask(self.asked, stream)
        row.requests += 1
        row.failed += not answered
        row.slowest = max(row.slowest, time.perf_counter() - at)

    async def _for(self, number: int) -> None:
        await asyncio.sleep(PAUSE * number)

    async def _until_asked(self) -> None:
        """Five times: its circuit is closed then, if it has one."""
        before, until = len(self.bad.asked), time.perf_counter() + RECOVERS
        while len(self.bad.asked) < before + 5 and time.perf_counter() < until:
            await asyncio.sleep(PAUSE)

    async def _restart_redis(self) -> None:
        """Away for a third of the time; it comes back empty."""
        await self._for(self.number // 3)
        await asyncio.to_thread(self.redis.stop)
        await self._for(self.number // 3)
        await asyncio.to_thread(self.redis.start)
        await self._for(self.number // 3 + 20)

    async def _replace(self) -> None:
        await self._for(self.number // 2)
        for place, old in enumerate(list(self.gateways)):
            self.gateways[place] = await self.start()
            assert await old.end() == 0
        await self._for(self.number // 2)

    def _forget(self) -> None:
        """So that each trouble is the first: else the provider would stay open for longer from one to the next."""
        if KINDS[self.kind].ours:
            with Operator(self.redis.url) as operator:
                operator.reset("bad")

    def _recorded(self) -> int:
        """Answers of "good" that the fleet's record has: it never fails. 0 where nothing is recorded."""
        with Operator(self.redis.url) as operator:
            found = operator.status().records.get("good")
        return found.consecutive_successes if found is not None else 0


@contextmanager
def prepared(kind: str, number: int) -> Iterator[Path]:
    with ExitStack() as stack:
        redis = stack.enter_context(EmbeddedServer())
        bad, good = (stack.enter_context(llm_server()) for _ in range(2))
        yield Path(kind, redis, bad, good, number)


async def walked(path: Path) -> None:
    try:
        await path.walk()
    finally:
        for gateway in path.gateways:
            if gateway.process.returncode is None:
                gateway.process.kill()
                await gateway.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    parser.add_argument("--only", action="append", choices=KINDS, help="a kind of gateway; may be repeated")
    arguments = parser.parse_args()
    kinds = arguments.only or [name for name, kind in KINDS.items() if importlib.util.find_spec(kind.needs)]
    paths = []
    for kind in kinds:
        with prepared(kind, 12 if arguments.quick else 40) as path:
            asyncio.run(walked(path))
        lost = f"; answers that were not recorded: {path.lost}" if KINDS[kind].ours else ""
        print(f"{kind}: {sum(row.failed for row in path.rows.values())} requests failed{lost}", flush=True)
        paths.append(path)
    print("\nFailed requests of all, the slowest, calls to the one in trouble\n")
    print(f"| The one | {' | '.join(kinds)} |\n|{'---|' * (len(kinds) + 1)}")
    for name in paths[0].rows:
        print(f"| {name} | {' | '.join(path.rows[name].text() for path in paths)} |")


if __name__ == "__main__":
    with EndedBySignals():
        main()

"""The time of a run on the wall clock, in the shape that the simulation knows: its providers and rules work by it."""

import asyncio
from collections.abc import Callable

from benchmarks.quality.world import World

NOT_YET = 3600.0


class Wall(World):
    """Seconds since the run began, on the monotonic clock, which all processes of a machine share.

    Until `begin` is set the moment is long before: no incident goes on.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.begin = self._loop.time() + NOT_YET

    @property
    def now(self) -> float:  # type: ignore[override]  # whoever reads it does not mind
        return self._loop.time() - self.begin

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self._loop.call_later(seconds, action)

    def run(self, until: float) -> None:
        raise NotImplementedError("the event loop runs it")

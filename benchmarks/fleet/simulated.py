"""The same run in virtual time: the simulation of `benchmarks.quality.worlds`, written down as a real run is."""

from collections.abc import Callable

from benchmarks.fleet import log
from benchmarks.fleet.policies import OURS
from benchmarks.quality.world import Answer
from benchmarks.quality.worlds.ground import Ground, Player, Request
from benchmarks.quality.worlds.players import DEFAULT, maker
from benchmarks.quality.worlds.shape import Shape


def play(policy: str, shape: Shape) -> log.Log:
    """The simulation has no CPU: what the processes of a fleet take from each other is not in it."""
    assert isinstance(DEFAULT, str)
    make = maker(DEFAULT if policy == OURS else policy)
    requests, calls = list[log.Request](), list[log.Call]()

    def watched(ground: Ground) -> Player:
        player = make(ground)
        begin: Callable[[int], Request] = player.begin
        player.begin = lambda replica: Watched(begin(replica), ground, requests, calls)  # type: ignore[method-assign]
        return player

    Ground(shape).play(watched)
    return log.Log(requests, calls)


class Watched:
    """A request under any policy, with what becomes of it."""

    def __init__(self, request: Request, ground: Ground, requests: list[log.Request], calls: list[log.Call]) -> None:
        self._request = request
        self._world = ground.world
        self._requests = requests
        self._calls = calls
        self._began = ground.world.now

    def next(self) -> str | None:
        name = self._request.next()
        if name is None:
            self._end(has_failed=True)
        else:
            self._calls.append(log.Call(self._world.now, name))
        return name

    @property
    def timeout(self) -> float:
        return self._request.timeout

    def first_token(self) -> None:
        self._request.first_token()
        self._end(has_failed=False)

    def ended(self, answer: Answer, seconds: float) -> None:
        self._request.ended(answer, seconds)

    def _end(self, *, has_failed: bool) -> None:
        self._requests.append(log.Request(self._began, self._world.now - self._began, has_failed))

"""A request under a policy that is asked call by call."""

from collections.abc import Sequence

from benchmarks.quality.world import TRIES, Answer
from benchmarks.quality.worlds.ground import Ground, Request


class Tries:
    """A request under a policy that knows calls only: up to `TRIES`, and the time-outs that `Router.attempts` gives."""

    def __init__(self, policy: "ByCall", ground: Ground, replica: int) -> None:
        self._policy, self._ground, self._replica = policy, ground, replica
        deadline = ground.shape.deadline
        self._until = None if deadline is None else ground.world.now + deadline
        self._left = TRIES
        self._tried: frozenset[str] = frozenset()
        self._ticket: object = None

    def next(self) -> str | None:
        if not self._left or (self._until is not None and self._ground.world.now >= self._until):
            return None
        choice = self._policy.choose(self._replica, self._tried)
        if choice is None:
            return None
        name, self._ticket = choice
        self._left -= 1
        self._tried |= {name}
        return name

    @property
    def timeout(self) -> float:
        if self._until is None:
            return self._ground.shape.timeout
        left = max(0.001, self._until - self._ground.world.now)
        others = self._ground.providers.keys() - self._ground.drained - self._tried
        return left / 2 if self._left and others else left

    def first_token(self) -> None: ...

    def ended(self, answer: Answer, seconds: float) -> None:
        self._policy.done(self._replica, self._ticket, answer, seconds)


class ByCall:
    """A player that is asked call by call."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground

    def begin(self, replica: int) -> Request:
        return Tries(self, self.ground, replica)

    def choose(self, replica: int, tried: frozenset[str]) -> tuple[str, object] | None:
        raise NotImplementedError

    def done(self, replica: int, ticket: object, answer: Answer, seconds: float) -> None: ...

    def restart(self, replica: int) -> None: ...

    def add(self, name: str) -> None: ...

    def drain(self, name: str) -> None: ...

    def states(self) -> dict[str, str]:
        return {}

    def close(self) -> None: ...

    def left(self, tried: frozenset[str]) -> Sequence[str]:
        """Who may be asked: known, not drained, not tried."""
        return [name for name in self.ground.providers if name not in tried and name not in self.ground.drained]

"""The calls under way: each is recorded once, however it ends; and those that were chosen and have still to begin."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import finalize

from redis_router import Attempt
from redis_router.integrations.litellm.said import Answer, CallFacts, is_no_word_of_a_provider

MOST_SECONDS = 3600.0
"""A call of which nothing was heard for so long is over."""
CHOSEN_SECONDS = 5.0
"""So long a call may take from the choice to its beginning; then its permit, where it holds one, goes back."""
TRIED_SECONDS = 60.0
"""So long it is remembered where a request's tries failed."""
MOST_REQUESTS = 10_000


@dataclass(frozen=True, slots=True)
class Call:
    """One call under way."""

    attempt: Attempt[Any]
    facts: CallFacts
    began: float
    task: asyncio.Task[Any] | None
    cancelled: Callable[[asyncio.Task[Any]], None]

    def leave_task(self) -> None:
        """A task may make many calls: what watches it for one goes when that one is over."""
        if self.task is not None:
            self.task.remove_done_callback(self.cancelled)


class Calls:
    """Those of one process, by LiteLLM's id of the call. Whoever takes one out of the table records it."""

    def __init__(self) -> None:
        self._under_way: dict[str, Call] = {}
        self._chosen: dict[str, deque[tuple[float, Attempt[Any]]]] = {}
        self._tried: dict[str, tuple[float, set[str]]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    # Before a call

    def keep(self, attempt: Attempt[Any]) -> None:
        """It was chosen, and waits for the next call to its deployment to begin."""
        self._chosen.setdefault(attempt.provider.name, deque()).append((time.monotonic(), attempt))

    def take(self, deployment: str) -> Attempt[Any] | None:
        """The one that was chosen first and not too long ago."""
        chosen = self._chosen.get(deployment)
        while chosen:
            since, attempt = chosen.popleft()
            if time.monotonic() - since < CHOSEN_SECONDS:
                return attempt
            attempt.discard()
        return None

    def tidy(self) -> None:
        """Give back what nobody used, and forget what is long over."""
        now = time.monotonic()
        for chosen in list(self._chosen.values()):
            while chosen and now - chosen[0][0] >= CHOSEN_SECONDS:
                chosen.popleft()[1].discard()
        while self._tried:
            request = next(iter(self._tried))
            if now - self._tried[request][0] < TRIED_SECONDS and len(self._tried) <= MOST_REQUESTS:
                break
            self._tried.pop(request, None)
        while self._under_way:
            oldest = next(iter(self._under_way.values()))
            if now - oldest.began < MOST_SECONDS:
                break
            self.vanished(oldest.facts.call)

    def tried(self, request: str) -> set[str]:
        """The deployments that failed for this request."""
        return self._tried[request][1] if request in self._tried else set()

    def begin(self, attempt: Attempt[Any], facts: CallFacts, lives_with: object) -> None:
        """It begins now. Where it is cancelled, or `lives_with` is no more and nobody said how it ended, it is ignored.

        LiteLLM says nothing of a call that was cancelled, or of a stream that was left.
        """

        def cancelled(task: asyncio.Task[Any]) -> None:
            if task.cancelled():
                self.vanished(facts.call)

        attempt.__enter__()
        attempt.hand_over()
        task = asyncio.current_task()
        self._under_way[facts.call] = Call(attempt, facts, time.monotonic(), task, cancelled)
        if task is not None:
            task.add_done_callback(cancelled)
        if lives_with is not None:
            finalize(lives_with, self.vanished, facts.call).atexit = False

    def is_under_way(self, call: str) -> bool:
        """Did it begin, and is its end not known yet?"""
        return call in self._under_way

    # After it

    def succeeded(self, call: str, response: object, latency_ms: float | None = None) -> None:
        """It was answered; `latency_ms` in place of the time until now."""
        if (attempt := self._ended(call)) is not None:
            attempt.succeed(latency_ms)
            if (answer := Answer.of(response)) is not None:
                attempt.classify(answer)  # the latency stays
            attempt.__exit__(None, None, None)

    def failed(self, call: str, error: object, first_token_ms: float | None = None) -> None:
        """It was not answered; or not to its end, and the averages take the time until it began."""
        under_way = self._under_way.get(call)
        if under_way is None or (attempt := self._ended(call)) is None:
            return
        if under_way.facts.request:
            _, names = self._tried.setdefault(under_way.facts.request, (time.monotonic(), set()))
            names.add(under_way.facts.deployment)
        raised = error if isinstance(error, BaseException) else RuntimeError(str(error)[:200])
        if isinstance(error, BaseException) and is_no_word_of_a_provider(error):
            attempt.ignore()
        elif first_token_ms is not None:
            attempt.succeed(first_token_ms)
            attempt.classify(raised)  # the last word counts, and the latency stays
        attempt.__exit__(type(raised), raised, raised.__traceback__)

    def vanished(self, call: str) -> None:
        """Nobody knows, or it was never made: it says nothing about the provider, and its permit goes back."""
        if (attempt := self._ended(call)) is not None:
            attempt.ignore()
            attempt.__exit__(None, None, None)

    def _ended(self, call: str) -> Attempt[Any] | None:
        """The attempt, for the one who asks first."""
        ended = self._under_way.pop(call, None)
        if ended is None:
            return None
        ended.leave_task()
        return ended.attempt

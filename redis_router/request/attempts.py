"""The attempts of one request: one provider after the other, then the fallback models, until one succeeds.

`for` in threads, `async for` in asyncio; they differ only in how they wait.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from typing import Generic, Self

from redis_router.circuit.outcome import Outcome
from redis_router.errors import NoProviderAvailable, RouterError
from redis_router.provider import ClientT
from redis_router.request.attempt import Attempt
from redis_router.request.chooser import Choice
from redis_router.request.classify import TOO_IMPATIENT, Verdict
from redis_router.request.context import Context
from redis_router.request.deadline import Deadline
from redis_router.runtime.log import log

MAX_WAIT = 60.0
"""Seconds that a request waits for a provider where it has no deadline."""
LEAST_PAUSE = 1.0
"""Seconds until a provider is asked again that is rate limited, whatever it said."""
LOOK_UP = 1.0
"""Seconds after which a request that waits looks up, also where nobody rang."""
LEAST_TIMEOUT = 0.001
"""Some clients refuse a time-out of 0."""
_MOST_CHARS = 300
_OURS = "redis_router:"


class Turn(Attempt[ClientT]):
    """One of the attempts of a request: it has a share of the deadline, and its failure may lead to another one."""

    __slots__ = ("_attempts", "_began", "_granted")

    def __init__(self, context: Context, choice: Choice, model: str, attempts: "Attempts[ClientT]") -> None:
        super().__init__(context, *choice, model)
        self._attempts = attempts
        self._began = math.inf
        self._granted = math.inf

    def __enter__(self) -> Self:
        super().__enter__()
        self._began, self._granted = time.monotonic(), self._attempts.granted(self)
        return self

    @property
    def timeout(self) -> float | None:
        if not self.was_used:
            left = self._attempts.granted(self)
        elif self.has_begun_to_answer:
            left = self._attempts.deadline.left_after_first_token(self._began)
        else:
            left = self._began + self._granted - time.monotonic()
        return None if left == math.inf else max(LEAST_TIMEOUT, left)

    @property
    def remaining(self) -> float | None:
        left = self._attempts.deadline.left
        return None if left == math.inf else left

    @property
    def record(self) -> str:
        """The name of the record that this call counts for."""
        return self._candidate.health.name

    def _share(self) -> float:
        return math.inf if self.has_begun_to_answer else self._granted

    def _goes_on(self, verdict: Verdict, error: BaseException | None) -> bool:
        return self._attempts._ended(self, verdict, error)


class Attempts(Generic[ClientT]):
    """Iterate once, and enter each attempt's `with` block. See `Router.attempts`."""

    def __init__(
        self,
        context: Context,
        models: Sequence[str],
        *,
        max_attempts: int | None,
        deadline: Deadline,
        wait: bool,
        must_wait: bool,
    ) -> None:
        self._context = context
        self._models = models
        self.deadline = deadline
        self._left = math.inf if max_attempts is None else max_attempts
        self._wait_until = min(deadline.until, time.monotonic() + MAX_WAIT) if wait else 0.0
        self._must_wait = must_wait
        self._tried: dict[tuple[str, str], float] = {}  # (model, record) -> when it may be tried again
        self._past: list[str] = []
        self._next: Turn[ClientT] | None = None
        self._missing: NoProviderAvailable | None = None  # why there was nobody, when last looked
        self._held_back: BaseException | None = None  # while another provider is waited for
        self._over = False

    @property
    def is_over(self) -> bool:
        """Did the deadline pass?"""
        return self.deadline.left == 0.0

    def __iter__(self) -> Iterator[Attempt[ClientT]]:
        turn: Turn[ClientT] | None = None
        if self._wait_until and _in_event_loop():
            if self._must_wait:
                raise RouterError("this would block the event loop while it waits: write `async for`")
            self._wait_until = 0.0
        try:
            while not self._over:
                turn = self._look()
                if turn is None and not self._over:
                    turn = self._wait_in_thread()
                if turn is None:
                    return
                yield turn
                self._check_use(turn)
        finally:
            self._leave(turn)

    async def __aiter__(self) -> AsyncIterator[Attempt[ClientT]]:
        turn: Turn[ClientT] | None = None
        try:
            while not self._over:
                turn = self._look()
                if turn is None and not self._over:
                    turn = await self._wait_in_loop()
                if turn is None:
                    return
                yield turn
                self._check_use(turn)
        finally:
            self._leave(turn)

    def _check_use(self, turn: Turn[ClientT]) -> None:
        """A turn that was passed over ends the request; an error in hand is not lost."""
        if not turn.was_used:
            self._over = True
            if self._held_back is not None:
                raise self._held_back

    def _leave(self, turn: Turn[ClientT] | None) -> None:
        """The loop was left: what was chosen and not begun is given back."""
        self._over = True
        for chosen in (turn, self._next):
            if chosen is not None:
                chosen.discard()

    def granted(self, turn: Turn[ClientT]) -> float:
        """Seconds that this attempt may take until its first token, where it begins now."""
        deadline = self.deadline
        return deadline.granted(another_may_follow=deadline.shares and self._another_may_follow(turn))

    def _another_may_follow(self, turn: Turn[ClientT]) -> bool:
        if self._left <= 1:
            return False
        now = time.monotonic()
        tried = [(turn.model, turn.record), *(pair for pair, again_at in self._tried.items() if again_at > now)]
        return any(
            self._context.chooser.is_callable(model, {record for tried_for, record in tried if tried_for == model})
            for model in self._models
        )

    # Choosing

    def _look(self) -> Turn[ClientT] | None:
        """The next attempt; None to wait for it. Raises what the caller shall see where there is none to come."""
        if not (self._past and self.is_over):
            if self._next is not None:
                turn, self._next = self._next, None
                return turn
            try:
                return self._choose_next()
            except NoProviderAvailable as none:
                self._missing = none
            except Exception:
                if self._held_back is None:
                    raise
                log.exception("no other provider is tried for model %r", self._models[0])
            if self._may_wait():
                return None
        self._over = True
        if self._held_back is not None:
            self._explain(self._held_back, self._past[:-1])
            raise self._held_back
        if self._missing is None or self._past:
            return None  # the code said `fail`, without an exception: it knows
        raise self._missing

    def _choose_next(self) -> Turn[ClientT]:
        now = time.monotonic()
        tried = [pair for pair, again_at in self._tried.items() if again_at > now]
        everywhere = frozenset(record for _, record in tried)
        missing = []
        for model in self._models:
            here = frozenset(record for tried_for, record in tried if tried_for == model)
            for without in dict.fromkeys((everywhere, here)):  # for a fallback model, first those not tried at all
                try:
                    return Turn(self._context, self._context.chooser.choose(model, without), model, self)
                except NoProviderAvailable as none:
                    missing.append(none)
        raise NoProviderAvailable.merged(missing)

    def _ended(self, turn: Turn[ClientT], verdict: Verdict, error: BaseException | None) -> bool:
        """An attempt's block ended; True where its error is not passed on, as another attempt follows."""
        if not _may_go_on(turn, verdict) or not isinstance(error, Exception | None):
            self._over = True
            if turn.has_begun_to_answer and verdict.outcome is Outcome.FAILURE:
                self._tell(turn, len(self._past) + 1, verdict.reason, "its answer had begun, so nobody continues it")
            self._explain(error, self._past)
            return False
        said = verdict.reason or verdict.outcome.value
        self._past.append(f"{turn.record} ({turn.model}): {said if error is None else _text(error)}")
        self._left -= 1
        now = time.monotonic()
        once_more = verdict.outcome is Outcome.RATE_LIMITED and now < self._wait_until
        self._tried[turn.model, turn.record] = (
            now + max(verdict.cooldown or 0.0, LEAST_PAUSE) if once_more else math.inf
        )
        self._missing = None
        goes_on = self._left > 0 and not self._over and not self.is_over  # over: the loop was left already
        if goes_on and not isinstance(error, StopIteration | StopAsyncIteration):
            try:
                self._next = self._choose_next()  # now, so that the error in hand is passed on where there is none
            except NoProviderAvailable as none:
                self._missing = none
            except Exception:
                log.exception("no other provider is tried for model %r", turn.model)  # a strategy of the user's own
            if self._next is not None or (self._missing is not None and self._may_wait()):
                self._held_back = error
                self._tell(turn, len(self._past), said, f"{self._next.record} is next" if self._next else "waiting")
                return True
        self._over = True
        self._tell(turn, len(self._past), said, "nobody is next")
        self._explain(error, self._past[:-1])
        return False

    def _tell(self, turn: Turn[ClientT], number: int, said: str, after: str) -> None:
        text, model = "attempt %d for model %r failed at %s (%s): %s", self._models[0][:100]
        self._context.failovers.say(turn.record, text, number, model, turn.record, said, after)

    def _explain(self, error: BaseException | None, earlier: Sequence[str]) -> None:
        """Attach to the error what went before it, and why nothing follows, where it takes notes."""
        if error is None:
            return
        with suppress(Exception):  # frozen, slotted, or with a __getattr__ that raises: the caller sees it all the same
            for note in [note for note in getattr(error, "__notes__", ()) if str(note).startswith(_OURS)]:
                error.__notes__.remove(note)  # an exception that is raised again and again
            for number, text in enumerate(earlier, 1):
                error.add_note(f"{_OURS} attempt {number} failed before, with {text}")
            if self._missing is not None and self._missing.reasons:
                error.add_note(f"{_OURS} {self._missing}")

    # Waiting

    def _may_wait(self) -> bool:
        """Is there time, and a provider that was not tried?"""
        now = time.monotonic()
        return (
            (not self._context.engine.closed)
            and now < self._wait_until
            and any(
                self._tried.get((model, record), now) < math.inf
                for model in self._models
                for record in self._context.chooser.serving(model)
            )
        )

    def _pause(self) -> float:
        now = time.monotonic()
        moments = [self._wait_until, now + LOOK_UP, *(at for at in self._tried.values() if at > now)]
        return max(0.001, min(moments) - now)

    def _wait_in_thread(self) -> Turn[ClientT] | None:
        turn = None
        with self._context.engine.waiters.in_thread(self._models) as wait:
            try:
                while (turn := self._look()) is None and not self._over:
                    wait(self._pause())
            finally:
                self._pass_on(turn)
        return turn

    async def _wait_in_loop(self) -> Turn[ClientT] | None:
        turn = None
        with self._context.engine.waiters.in_loop(self._models) as wait:
            try:
                while (turn := self._look()) is None and not self._over:
                    await wait(self._pause())
            finally:
                self._pass_on(turn)
        return turn

    def _pass_on(self, turn: Turn[ClientT] | None) -> None:
        """Who was woken for a call and leaves without it leaves it to the next one."""
        if turn is None:
            self._context.engine.waiters.ring(self._models, 1)


def _may_go_on(turn: Turn[ClientT], verdict: Verdict) -> bool:
    """May another provider be asked after this? Never once the answer began: two answers would be glued together."""
    if turn.has_begun_to_answer:
        return False
    failed = verdict.outcome in (Outcome.FAILURE, Outcome.RATE_LIMITED)
    return failed or verdict == TOO_IMPATIENT


def _text(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:_MOST_CHARS]
    except Exception:  # its __str__ fails
        return type(error).__name__


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

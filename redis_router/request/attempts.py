"""The attempts of one request: one provider after the other, then the fallback models, until one succeeds.

`for` in threads, `async for` in asyncio; they differ only in how they wait.
"""

import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Generic, Self

from redis_router.checks import check_count
from redis_router.circuit.outcome import Outcome
from redis_router.errors import InvalidArgument, NoProviderAvailable, RouterError
from redis_router.provider import ClientT
from redis_router.request.attempt import Attempt
from redis_router.request.chooser import Choice
from redis_router.request.classify import TOO_IMPATIENT, Verdict
from redis_router.request.context import Context
from redis_router.request.deadline import Deadline
from redis_router.request.explain import add_notes, text_of
from redis_router.request.tried import Tried
from redis_router.request.waiting import LEAST_PAUSE, MAX_WAIT, Waiting, in_event_loop
from redis_router.runtime.log import log

LEAST_TIMEOUT = 0.001
"""Some clients refuse a time-out of 0."""
_NO_CHOICE = "no other provider is tried for model %r"


class RequestAttempt(Attempt[ClientT]):
    """One of the attempts of a request: it has a share of the deadline, and its failure may lead to another one."""

    __slots__ = ("_attempts", "_granted")

    def __init__(self, context: Context, choice: Choice, attempts: "Attempts[ClientT]") -> None:
        super().__init__(context, *choice)
        self._attempts = attempts
        self._granted = math.inf

    def __enter__(self) -> Self:
        super().__enter__()
        self._granted = self._attempts.granted(self)
        return self

    @property
    def timeout(self) -> float | None:
        if not self.was_used:
            left = self._attempts.granted(self)
        elif self.has_begun_to_answer:
            left = self._attempts.deadline.left_after_first_token(self._started)
        else:
            left = self._started + self._granted - self._context.now()
        return None if left == math.inf else max(LEAST_TIMEOUT, left)

    @property
    def remaining(self) -> float | None:
        left = self._attempts.deadline.left
        return None if left == math.inf else left

    def may_be_followed(self, verdict: Verdict) -> bool:
        """May another provider be asked after this? Never once the answer began: two would be glued together."""
        failed = verdict.outcome in (Outcome.FAILURE, Outcome.RATE_LIMITED)
        return not self.has_begun_to_answer and (failed or verdict == TOO_IMPATIENT)

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
        self._left = math.inf if max_attempts is None else check_count("max_attempts", max_attempts)
        self._waiting = Waiting(context, models, min(deadline.until, context.now() + MAX_WAIT) if wait else 0.0)
        self._must_wait = must_wait
        self._tried = Tried(context.now)
        self._past: list[str] = []
        self._next: RequestAttempt[ClientT] | None = None
        self._missing: NoProviderAvailable | None = None  # why there was nobody, when last looked
        self._held_back: BaseException | None = None  # while another provider is waited for
        self._over = False

    @property
    def is_over(self) -> bool:
        """Did the deadline pass?"""
        return self.deadline.left == 0.0

    def __iter__(self) -> Iterator[Attempt[ClientT]]:
        attempt: RequestAttempt[ClientT] | None = None
        if self._waiting.until and in_event_loop():
            if self._must_wait:
                raise RouterError("this would block the event loop while it waits: write `async for`")
            self._waiting.until = 0.0
        try:
            while not self._over:
                attempt = self._look()
                if attempt is None and not self._over:
                    attempt = self._wait_in_thread()
                if attempt is None:
                    return
                yield attempt
                self._check_use(attempt)
        finally:
            self._leave(attempt)

    async def __aiter__(self) -> AsyncIterator[Attempt[ClientT]]:
        attempt: RequestAttempt[ClientT] | None = None
        try:
            while not self._over:
                attempt = self._look()
                if attempt is None and not self._over:
                    attempt = await self._wait_in_loop()
                if attempt is None:
                    return
                yield attempt
                self._check_use(attempt)
        finally:
            self._leave(attempt)

    def _wait_in_thread(self) -> RequestAttempt[ClientT] | None:
        attempt = None
        with self._waiting.in_thread() as place:
            while (attempt := self._look()) is None and not self._over:
                place.wait(self._waiting.pause(self._tried))
            place.found = attempt is not None
        return attempt

    async def _wait_in_loop(self) -> RequestAttempt[ClientT] | None:
        attempt = None
        with self._waiting.in_loop() as place:
            while (attempt := self._look()) is None and not self._over:
                await place.wait(self._waiting.pause(self._tried))
            place.found = attempt is not None
        return attempt

    def _check_use(self, attempt: RequestAttempt[ClientT]) -> None:
        """An attempt that was passed over ends the request; an error in hand is not lost."""
        if not attempt.was_used:
            self._over = True
            if self._held_back is not None:
                raise self._held_back

    def _leave(self, attempt: RequestAttempt[ClientT] | None) -> None:
        """The loop was left: what was chosen and not begun is given back."""
        self._over = True
        for chosen in (attempt, self._next):
            if chosen is not None:
                chosen.discard()

    def granted(self, attempt: RequestAttempt[ClientT]) -> float:
        """Seconds that this attempt may take until its first token, where it begins now."""
        deadline = self.deadline
        return deadline.granted(another_may_follow=deadline.shares and self._another_may_follow(attempt))

    def _another_may_follow(self, attempt: RequestAttempt[ClientT]) -> bool:
        tried = self._tried.barred() | {(attempt.model, attempt.record)}
        return self._left > 1 and self._context.chooser.another_is_left(self._models, tried)

    # The next attempt

    def _look(self) -> RequestAttempt[ClientT] | None:
        """The next attempt; None to wait for it. Raises what the caller shall see where there is none to come."""
        if not (self._past and self.is_over):
            if self._next is not None:
                attempt, self._next = self._next, None
                return attempt
            try:
                return self._choose()
            except NoProviderAvailable as none:
                self._missing = none
            except Exception:  # a strategy of the user's own
                if self._held_back is None:
                    raise
                log.exception(_NO_CHOICE, self._models[0])
            if self._waiting.is_worth_it(self._tried):
                return None
        self._over = True
        if self._held_back is not None:
            add_notes(self._held_back, self._past[:-1], self._missing)
            raise self._held_back
        if self._missing is None or self._past:
            return None  # the code said `fail`, without an exception: it knows
        raise self._missing

    def _choose(self) -> RequestAttempt[ClientT]:
        choice = self._context.chooser.choose(self._models, tried=self._tried.barred())
        return RequestAttempt(self._context, choice, self)

    def _choose_ahead(self, model: str) -> None:
        """Now, so that the error in hand is passed on where there is nobody."""
        try:
            self._next = self._choose()
        except NoProviderAvailable as none:
            self._missing = none
        except Exception:  # a strategy of the user's own
            log.exception(_NO_CHOICE, model)

    # What an attempt came to

    def _ended(self, attempt: RequestAttempt[ClientT], verdict: Verdict, error: BaseException | None) -> bool:
        """An attempt's block ended; True where its error is not passed on, as another attempt follows."""
        if not attempt.may_be_followed(verdict) or not isinstance(error, Exception | None):
            self._over = True
            if attempt.has_begun_to_answer and verdict.outcome is Outcome.FAILURE:
                after = "its answer had begun, so nobody continues it"
                self._say_failed(attempt, len(self._past) + 1, verdict.reason, after)
            add_notes(error, self._past, self._missing)
            return False
        said = verdict.reason or verdict.outcome.value
        self._note(attempt, verdict, said if error is None else text_of(error))
        goes_on = self._left > 0 and not self._over and not self.is_over  # over: the loop was left already
        if goes_on and not isinstance(error, StopIteration | StopAsyncIteration):
            self._choose_ahead(attempt.model)
            if self._next is not None or (self._missing is not None and self._waiting.is_worth_it(self._tried)):
                self._held_back = error
                after = f"{self._next.record} is next" if self._next is not None else "waiting"
                self._say_failed(attempt, len(self._past), said, after)
                return True
        self._over = True
        self._say_failed(attempt, len(self._past), said, "nobody is next")
        add_notes(error, self._past[:-1], self._missing)
        return False

    def _note(self, attempt: RequestAttempt[ClientT], verdict: Verdict, text: str) -> None:
        """It failed, and is not asked again; after a rate limit, while the request may wait, when that is over."""
        again_at = math.inf
        if verdict.outcome is Outcome.RATE_LIMITED and not self._waiting.is_over:
            again_at = self._context.now() + max(verdict.cooldown or 0.0, LEAST_PAUSE)
        self._tried.add(attempt.model, attempt.record, again_at)
        self._past.append(f"{attempt.record} ({attempt.model}): {text}")
        self._left -= 1
        self._missing = None

    def _say_failed(self, attempt: RequestAttempt[ClientT], number: int, said: str, after: str) -> None:
        text, model = "attempt %d for model %r failed at %s (%s): %s", self._models[0][:100]
        self._context.failovers.say(attempt.record, text, number, model, attempt.record, said, after)


def models_to_ask(model: str, fallbacks: Mapping[str, Sequence[str]] | None) -> tuple[str, ...]:
    """The model, then those to ask for instead. Raises InvalidArgument."""
    if fallbacks is not None and not isinstance(fallbacks, Mapping):
        raise InvalidArgument(f"fallbacks is {fallbacks!r}: give models by model, such as {{'gpt-4o': ['claude']}}")
    others = (fallbacks or {}).get(model, ())
    if not isinstance(others, list | tuple) or not all(isinstance(other, str) for other in others):
        raise InvalidArgument(f"fallbacks for {model!r} is {others!r}: give a list of models")
    return tuple(dict.fromkeys((model, *others)))

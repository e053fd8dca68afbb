"""How much time a request has, and each of its attempts: all in seconds, infinite where nothing bounds it."""

import math
import time
from collections.abc import Callable

from redis_router.checks import check_seconds


class Deadline:
    """The limits of one request, from now on.

    whole        until when an attempt may begin, and what a call should not outlast; None for no deadline
    attempt      for each call; None for a share of the deadline
    first_token  for each call until its first token, in place of a share
    now          the monotonic clock

    Raises InvalidArgument for what is no time.
    """

    def __init__(
        self,
        whole: float | None,
        attempt: float | None,
        first_token: float | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        for what, seconds in (("deadline", whole), ("attempt_timeout", attempt), ("first_token_timeout", first_token)):
            if seconds is not None:
                check_seconds(what, seconds)
        self._now = now
        self.until = math.inf if whole is None else now() + whole
        self._attempt = math.inf if attempt is None else attempt
        self._first_token = math.inf if first_token is None else first_token

    @property
    def left(self) -> float:
        """For the request; at least 0."""
        return max(0.0, self.until - self._now())

    @property
    def shares(self) -> bool:
        """Is the deadline all that bounds an attempt, so that attempts share it?"""
        return self.until < math.inf and self._attempt == self._first_token == math.inf

    def granted(self, *, another_may_follow: bool) -> float:
        """For an attempt that begins now, until its first token.

        Where attempts share the deadline: half of what is left while another may follow, else all of it.
        """
        if self.shares:
            return self.left / 2 if another_may_follow else self.left
        return min(self.left, self._attempt, self._first_token)

    def left_after_first_token(self, began: float) -> float:
        """For the rest of an answer; `began` is the monotonic moment of the attempt. Nobody follows it."""
        return min(self.left, began + self._attempt - self._now())

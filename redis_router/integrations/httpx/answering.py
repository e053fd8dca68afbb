"""One call's answer: read until it shows whether it is one, then passed on, and what became of it recorded."""

import json
from collections import deque
from contextlib import ExitStack
from typing import Any

from redis_router import Attempt
from redis_router.integrations.httpx.answers import BadAnswer, Header, response_of
from redis_router.integrations.httpx.events import Events
from redis_router.integrations.httpx.ways import LEAST, Threads

ANSWER = "redis_router"
"""In the extensions of a response that was passed on: its Answering."""
MOST_HELD = 1 << 20
"""Bytes that are held back of an answer: beyond them it is passed on as it comes. Of a failed one, no more is read."""


class Answering:
    """The answer to one attempt, whose block stays open until the answer ended.

    holds  nothing is passed on before its content begins, as another provider may answer until then
    """

    def __init__(self, way: Threads, attempt: Attempt[Any], response: Any, *, method: str, holds: bool) -> None:
        self._block: ExitStack | None = None
        self._way = way
        self._attempt = attempt
        self._response = response
        self._holds = holds
        self._is_question = method == "POST"
        self._parts = way.parts(response)
        self._held: deque[bytes] = deque()
        self._size = 0
        self._events: Events | None = None
        self._came_in_time = True
        self.is_over = False

    # Until it is passed on

    async def settle(self) -> None:
        """Read as much as shows what it is. Raises BadAnswer, and what the library raises where it breaks."""
        headers = self._response.headers
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if self._response.status_code >= 400:
            raise await self._bad()
        if self._holds and self._response.status_code >= 300:
            raise await self._bad("a redirect, which is not followed", "redirect")
        if kind == "text/event-stream":
            if headers.get("content-encoding", "identity") == "identity":
                self._events = Events()
            if self._holds:
                await self._read_until_content()
        elif kind == "application/json":
            await self._read_whole()
        elif self._holds and kind == "text/html":
            raise await self._bad("HTML in place of an answer", "garbage")
        elif self._holds:
            await self._hold()

    async def _bad(self, why: str = "", reason: str = "") -> BadAnswer:
        body = None
        try:
            while await self._hold():
                pass
            body = None if reason else self._json()
        except Exception:
            body = None  # its status says enough
        return self._no_answer(why, reason, body)

    def _no_answer(self, why: str, reason: str, body: Any = None) -> BadAnswer:
        """Where there is a reason, it is a failure; else `classify` decides."""
        if reason:
            self._attempt.fail(reason)
        return BadAnswer(self._response, self._held, body, why)

    async def _hold(self) -> bool:
        """Take one more part in, where there is one and room for it."""
        if self._size > MOST_HELD or self.is_over:
            return False
        part = await self._way.read(self._parts, self._attempt.timeout)
        if part is None:
            self.is_over = True
            return False
        self._held.append(part)
        self._size += len(part)
        return True

    async def _read_whole(self) -> None:
        while await self._hold():
            pass
        if not self.is_over:
            self._attempt.first_token()
            return
        try:
            body = self._json()
        except Exception:
            raise self._no_answer("it says that it is JSON, and is not", "garbage") from None
        if isinstance(body, dict) and body.get("error") and "choices" not in body:
            raise self._no_answer("", "", body)

    def _json(self) -> Any:
        content = b"".join(self._held)
        if "content-encoding" in self._response.headers:
            content = self._way.library.Response(200, headers=self._response.headers, content=content).content
        return json.loads(content)

    async def _read_until_content(self) -> None:
        events = self._events
        while await self._hold():
            if events is None:
                return
            self._feed(events, self._held[-1])
            if events.error is not None:
                raise self._no_answer("", "", {"error": events.error})
            if events.began:
                return
        if self.is_over:
            raise self._no_answer("a stream without content", "incomplete")

    def _feed(self, events: Events, part: bytes) -> None:
        try:
            events.feed(part)
        except (ValueError, RecursionError):
            raise self._no_answer("an event that is no JSON", "garbage") from None

    # Passing it on

    def response(self, block: ExitStack, more: tuple[Header, ...] = ()) -> Any:
        """The response to hand out. `block` is the attempt's, which ends when it shows what became of the answer."""
        self._block = block
        if self._holds and not self.is_over:
            self._attempt.first_token()
        if self.is_over or self.has_ended:
            self._end()
        return response_of(self._way.library, self._response, self, more, {ANSWER: self})

    async def part(self) -> bytes | None:
        """The next bytes for the client; None at the end."""
        if self._held:
            return self._held.popleft()
        if self.is_over:
            return None
        seconds = self._attempt.timeout
        if self._came_in_time and not _is_left(seconds):  # it ran out while the client did not read
            self._hang_up()
        try:
            part = await self._way.read(self._parts, seconds)
        except BaseException as error:
            self.is_over = True
            self._leave(error)
            raise
        self._came_in_time = seconds is None or _is_left(self._attempt.timeout)
        if part is None:
            self.is_over = True
            self._end()
        elif self._block is not None:
            self._look(part)
        return part

    def _look(self, part: bytes) -> None:
        events = self._events
        if events is None:
            self._attempt.first_token()
            return
        try:
            events.feed(part)
        except (ValueError, RecursionError):
            self._attempt.fail("garbage")
            self._leave()
            return
        if events.began:
            self._attempt.first_token()
        if events.error is not None:
            self._attempt.classify(BadAnswer(self._response, (), {"error": events.error}))
            self._leave()
        elif events.ended:
            self._end()

    def _end(self) -> None:
        """It came to its end, which of a stream may be too early."""
        if self.is_cut_short:
            self._attempt.fail("incomplete")
        elif self._is_question and self._response.status_code < 300:
            self._attempt.classify(self._response)
        else:  # what is no question to a model tells nothing of its latency, and a redirect nothing at all
            self._attempt.ignore()
        self._leave()

    @property
    def has_ended(self) -> bool:
        """Did it come to the end that its vocabulary has? What comes after that is nobody's loss."""
        return self._events is not None and self._events.ended

    @property
    def is_cut_short(self) -> bool:
        """Is this a stream of events without the end that its vocabulary has? To be asked when its bytes ended."""
        return self._events is not None and self._events.known and not self._events.ended

    async def drop(self) -> None:
        """It is no answer: nothing of it is passed on."""
        self.is_over = True
        await self._way.close(self._response, self._parts)

    async def close(self) -> None:
        """The client wants no more: where the answer has not ended, that says nothing about the provider."""
        self.is_over = True
        self._hang_up()
        await self._way.close(self._response, self._parts)

    def _hang_up(self) -> None:
        if self._block is not None:
            self._attempt.ignore()
            self._leave()

    def _leave(self, error: BaseException | None = None) -> None:
        block, self._block = self._block, None
        if block is not None:
            block.__exit__(type(error) if error is not None else None, error, None)

    def __del__(self) -> None:
        """A response that nobody read or closed."""
        self._hang_up()


def _is_left(seconds: float | None) -> bool:
    """Has an attempt any time left?"""
    return seconds is None or seconds > LEAST

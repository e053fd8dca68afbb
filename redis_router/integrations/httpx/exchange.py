"""One request of the client, from the question to an answer: at one provider, or at one after the other."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from redis_router import Attempt, InvalidArgument, NoProviderAvailable, Outcome, Router, classify
from redis_router.integrations.httpx.answering import Answering
from redis_router.integrations.httpx.answers import NO_RETRY, BadAnswer, Held, gone_wrong, nobody, response_of, said
from redis_router.integrations.httpx.question import Question, is_anthropic, question_of
from redis_router.integrations.httpx.upstream import Upstream
from redis_router.integrations.httpx.ways import Threads, shorter

OPTIONS = "redis_router"
"""Of a request's extensions: options of `Router.attempts` for this request alone."""


@dataclass(frozen=True, slots=True)
class One:
    """One provider, which serves the model `name`."""

    router: Router[Any]
    name: str

    async def answer(self, way: Threads, transport: Any, request: Any) -> Any:
        """Its response, or our 503. Raises what the transport raises."""
        try:
            attempt = self.router.attempt(self.name)
        except NoProviderAvailable as error:
            return nobody(way.library, is_anthropic(request), error)
        try:
            return await _ask(way, transport, attempt, request, holds=False)
        except BadAnswer as bad:
            return response_of(way.library, bad, Held(bad.parts))


@dataclass(frozen=True, slots=True)
class Several:
    """The providers of a router, each with an `Upstream` as its client.

    options    of `Router.attempts`
    model      for requests that name none
    base_path  of the client's base URL
    """

    router: Router[Any]
    options: Mapping[str, Any]
    model: str | None
    base_path: str | None

    async def answer(self, way: Threads, transport: Any, request: Any) -> Any:
        """A provider's response, or our 5xx. Raises what is neither a failure of HTTP nor of the providers."""
        question = question_of(request, self.base_path)
        model = question.model or self.model
        if model is None:
            text = "this request names no model: give failover() one for such requests"
            return said(way.library, question.anthropic, 400, "invalid_request_error", "ROUTER_NO_MODEL", text)
        options = {**self.options, **request.extensions.get(OPTIONS, {})}
        if question.body is None:
            options["max_attempts"] = 1  # what was sent of it cannot be sent again
        if not question.is_stream:
            options.pop("first_token_timeout", None)  # it would bound the whole answer
        try:
            return await self._ask(way, transport, question, self.router.attempts(model, **options))
        except NoProviderAvailable as error:
            return nobody(way.library, question.anthropic, error)
        except BadAnswer as bad:
            return self._last(way, bad)
        except way.library.TransportError as error:
            return gone_wrong(way.library, question.anthropic, error)

    async def _ask(self, way: Threads, transport: Any, question: Question, attempts: Any) -> Any:
        tries, number = way.each(attempts), 0
        try:
            while (attempt := await way.next(tries)) is not None:
                number += 1
                request = _upstream(attempt).request(question, attempt.model)
                told = (
                    (b"x-redis-router-provider", attempt.provider.name.encode()),
                    (b"x-redis-router-attempts", str(number).encode()),
                )
                try:
                    response = await _ask(way, transport, attempt, request, holds=True, told=told)
                except BadAnswer as bad:
                    bad.told = told
                    raise
                if response is not None:
                    return response
        finally:
            await way.leave(tries)
        raise AssertionError("attempts answer or raise")

    def _last(self, way: Threads, bad: BadAnswer) -> Any:
        """The last provider's own words; the SDK is told not to try again what was tried everywhere."""
        is_final = classify(bad).outcome is not Outcome.IGNORED
        length = (b"content-length", str(sum(map(len, bad.parts))).encode())
        return response_of(way.library, bad, Held(bad.parts), [*bad.told, length, *([NO_RETRY] if is_final else [])])


def _upstream(attempt: Attempt[Any]) -> Upstream:
    found = attempt.provider.client
    if not isinstance(found, Upstream):
        raise InvalidArgument(f"the client of provider {attempt.provider.name!r} is {found!r}: give an Upstream")
    return found


async def _ask(
    way: Threads, transport: Any, attempt: Attempt[Any], request: Any, *, holds: bool, told: Any = ()
) -> Any:
    """The response of one attempt; None where it failed and another attempt follows. Raises what the attempt raises."""
    with ExitStack() as block:
        block.enter_context(attempt)
        if headers := attempt.headers:
            request.headers.update(headers)
        usual = _bound(request, attempt.timeout)
        response = await way.send(transport, request, attempt.timeout)
        if attempt.timeout is not None:
            request.extensions["timeout"]["read"] = way.silence(usual, attempt.timeout)
        answering = Answering(way, attempt, response, method=request.method, holds=holds)
        try:
            await answering.settle()
        except BaseException:
            await answering.drop()
            raise
        attempt.hand_over()
        return answering.response(block.pop_all(), told)
    return None


def _bound(request: Any, seconds: float | None) -> float | None:
    """Shorten the time-outs of a request to what its attempt has; returns how long a read took at most before."""
    given: Mapping[str, float | None] = request.extensions.get("timeout", {})
    if seconds is not None:
        phases = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {phase: shorter(given.get(phase), seconds) for phase in phases}
    return given.get("read")

"""A developer's own loops, in threads and in asyncio: which spans there are, when they end, and what they carry."""

import asyncio
import contextvars
import gc
import threading
from uuid import uuid4

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from redis_router import (
    Attempt,
    Attempts,
    CircuitConfig,
    InvalidArgument,
    NoProviderAvailable,
    Outcome,
    Provider,
    RouterError,
    UnknownProvider,
)
from redis_router.integrations.opentelemetry import TracedRouter
from tests.integrations.opentelemetry.conftest import events_of
from tests.support.fleet import QUICK, Status, ask, fail, half_open, new_worker, only, until

ONE = CircuitConfig(consecutive_failure_limit=1, open_timeout=60.0)


def current():
    return trace.get_current_span()


def test_a_request_and_its_attempts(router, traces):
    """The first fails, the second answers: three spans, below the caller's."""
    with traces.tracer.start_as_current_span("caller") as caller:
        ask(router.attempts("m"), Status(503), None)
        assert current() is caller
    assert traces.tree() == ["caller", "  request m", "    attempt first", "    attempt second"]
    request, first, second = (traces.named(name) for name in ("request m", "attempt first", "attempt second"))
    assert dict(request.attributes) == {
        "gen_ai.request.model": "m",
        "redis_router.attempts": 2,
        "redis_router.provider": "second",
        "redis_router.model": "m",
        "redis_router.outcome": "success",
    }
    assert dict(first.attributes) == {
        "gen_ai.provider.name": "first",
        "gen_ai.request.model": "m",
        "redis_router.provider": "first",
        "redis_router.attempt": 1,
        "redis_router.outcome": "failure",
        "redis_router.reason": "http_503",
        "error.type": "503",
    }
    assert (first.status.status_code, first.status.description) == (
        StatusCode.ERROR,
        "http_503: tests.support.fleet.Status",
    )
    assert events_of(first) == ["exception"]
    assert second.attributes["redis_router.attempt"] == 2
    assert {span.status.status_code for span in (request, second)} == {StatusCode.UNSET}
    assert [span.kind for span in (request, first, second)] == [SpanKind.INTERNAL, SpanKind.CLIENT, SpanKind.CLIENT]
    assert request.instrumentation_scope.name == "redis_router"


def test_the_same_in_asyncio(router, traces):
    """And two requests at once in two tasks do not mix."""

    async def one(name):
        with traces.tracer.start_as_current_span(name) as caller:
            tries = 0
            async for attempt in router.attempts("m"):
                assert current() is caller
                with attempt:
                    tries += 1
                    await asyncio.sleep(0)
                    assert current().name == f"attempt {attempt.provider.name}"
                    if tries == 1:
                        raise Status(500)
                assert current() is caller
            assert current() is caller

    async def both():
        await asyncio.gather(one("a"), one("b"))

    asyncio.run(both())
    for name in ("a", "b"):
        trace_id = traces.named(name).context.trace_id
        alike = [span.name for span in traces.spans if span.context.trace_id == trace_id]
        assert alike == [name, "request m", "attempt first", "attempt second"]


def test_the_attempts_span_is_current_inside_its_block(router, traces):
    """What the block does is below it; a request inside an attempt is below that."""
    for attempt in router.attempts("m"):
        with attempt, traces.tracer.start_as_current_span("http"):
            ask(router.attempts("m"), None)
    assert traces.tree() == ["request m", "  attempt first", "    http", "      request m", "        attempt first"]


def test_the_last_error_is_the_requests(router, traces):
    """Where all fail."""
    with pytest.raises(Status):
        ask(router.attempts("m"), Status(503), Status(401))
    request = traces.named("request m")
    assert request.status.status_code is StatusCode.ERROR
    assert request.attributes["error.type"] == "401"
    assert request.attributes["redis_router.reason"] == "unauthorized"
    assert request.attributes["redis_router.attempts"] == 2


def test_a_fallback_shows(started, traces):
    """Asked for one model, answered by another."""
    router = started({"first": None})
    router.register_provider(Provider("other", ("n",)))
    ask(router.attempts("m", fallbacks={"m": ["n"]}), Status(500), None)
    request = traces.named("request m")
    assert (request.attributes["gen_ai.request.model"], request.attributes["redis_router.model"]) == ("m", "n")
    assert traces.named("attempt other").attributes["gen_ai.request.model"] == "n"


def test_what_the_code_said_is_the_outcome(router, traces):
    """Without an exception: a status of the SDK's own, a rate limit, a success whatever is raised."""
    with router.attempt("m") as attempt:
        attempt.fail("empty_answer")
    with router.attempt("m") as attempt:
        attempt.rate_limited(0.001)
    with router.attempt("m") as attempt:
        attempt.ignore()
    said = [
        (span.attributes["redis_router.outcome"], span.attributes.get("error.type"), span.status.description)
        for span in traces.spans
    ]
    assert said == [
        ("failure", "empty_answer", "empty_answer"),
        ("rate_limited", "rate_limited", "rate_limited"),
        ("ignored", None, None),
    ]


def test_the_status_of_an_http_clients_error(router, traces):
    """httpx and requests have it in the response."""
    request = httpx.Request("GET", "http://llm")
    with pytest.raises(httpx.HTTPStatusError), router.attempt("m"):
        httpx.Response(502, request=request).raise_for_status()
    assert traces.named("attempt first").attributes["error.type"] == "502"


def test_one_attempt_is_one_span(router, traces):
    """It is the request by itself."""
    with traces.tracer.start_as_current_span("caller"):
        with router.attempt("m"):
            pass
        with router.attempt_at("second", "m") as attempt:
            assert attempt.model == "m"
    assert traces.tree() == ["caller", "  attempt first", "  attempt second"]


def test_nobody_was_available(started, traces):
    """The request's span says why, provider by provider; there is no attempt."""
    router = started({"first": None, "second": None}, circuit=ONE, when_all_open="raise")
    for name in ("first", "second"):
        fail(router, name, 1)
        until(router, name, "open")
    with pytest.raises(NoProviderAvailable) as caught:
        ask(router.attempts("m"), None)
    with pytest.raises(NoProviderAvailable):
        router.attempt("m")
    with pytest.raises(NoProviderAvailable):
        router.attempt("m", exclude=["first"])
    assert traces.names == ["request", "request"]
    for span in traces.spans:
        reasons = span.attributes["redis_router.reasons"]
        assert [reason.partition(":")[0] for reason in reasons] == ["first", "second"]
        assert all("circuit open" in reason for reason in reasons)
        assert span.attributes["error.type"] == NoProviderAvailable.code
        assert span.status.status_code is StatusCode.ERROR
        assert 0 < span.attributes["redis_router.retry_after"] <= 60
    assert traces.spans[0].status.description.startswith(str(caught.value)[:50])


def test_any_model_may_be_asked_for(router, traces):
    """Names of spans are few: those of models that nobody serves are no part of them."""
    for model in ("x" * 5000, "y"):
        with pytest.raises(NoProviderAvailable):
            ask(router.attempts(model), None)
    assert traces.names == ["request", "request"]
    assert [len(span.attributes["gen_ai.request.model"]) for span in traces.spans] == [200, 1]


def test_a_trial_call_shows(started, traces):
    """A call of half-open; its permit is a secret of the fleet."""
    url = f"memory://{uuid4()}"
    router = started({"openai": None, "azure": None}, redis=url, circuit=QUICK, when_all_open="raise")
    worker = new_worker(url)
    half_open(router, worker)
    only(router, "openai")

    def tried():
        try:
            with router.attempt("m") as attempt:
                return attempt.permit
        except NoProviderAvailable:
            return None

    while (permit := tried()) is None:
        router.flush()
    span = traces.named("attempt openai")
    assert span.attributes["redis_router.half_open"] is True
    assert permit not in span.to_json()
    worker.stop()


def test_no_message_is_told(router, traces):
    """SDKs put the answer's body into it, which may quote the prompt, or the key."""
    text = "Incorrect API key provided: sk-1234; prompt: my secret"

    def raises(said):
        raise ValueError(said) from KeyError(said)

    with pytest.raises(ValueError), router.attempt("m"):
        raises(text)
    span = traces.named("attempt first")
    assert "sk-1234" not in span.to_json()
    assert "my secret" not in span.to_json()
    (event,) = span.events
    assert event.attributes["exception.type"] == "ValueError"
    assert "in raises" in event.attributes["exception.stacktrace"]


# Streams and what ends early


def test_a_stream_lasts_until_its_end(router, traces):
    """Its beginning is an event; from then on the caller's span is current: no generator leaves another behind."""

    def stream():
        for attempt in router.attempts("m"):
            with attempt:
                for part in ("a", "b"):
                    attempt.first_token()
                    yield part

    with traces.tracer.start_as_current_span("caller") as caller:
        made = stream()
        assert next(made) == "a"
        assert current() is caller
        assert traces.names == []
        assert list(made) == ["b"]
        assert current() is caller
    attempt, request = traces.named("attempt first"), traces.named("request m")
    assert events_of(attempt) == ["redis_router.first_token"]
    assert 0 < attempt.attributes["gen_ai.response.time_to_first_chunk"] < 60
    assert request.end_time >= attempt.end_time


def test_a_generator_that_is_left(router, traces):
    """Both spans end, once; nothing went wrong with the provider."""

    def stream():
        for attempt in router.attempts("m"):
            with attempt:
                attempt.first_token()
                yield "a"
                yield "b"

    made = stream()
    next(made)
    made.close()
    assert sorted(traces.names) == ["attempt first", "request m"]
    assert {span.status.status_code for span in traces.spans} == {StatusCode.UNSET}
    assert {span.attributes["redis_router.outcome"] for span in traces.spans} == {"ignored"}


def test_a_generator_that_is_left_in_asyncio(router, traces):
    """Also where another task closes it, or nobody does."""

    async def stream():
        async for attempt in router.attempts("m"):
            with attempt:
                attempt.first_token()
                yield "a"
                yield "b"

    async def ask_and_leave():
        made = stream()
        await anext(made)
        await asyncio.create_task(made.aclose())
        forgotten = stream()
        await anext(forgotten)
        del forgotten
        gc.collect()

    asyncio.run(ask_and_leave())
    gc.collect()
    assert sorted(traces.names) == ["attempt first"] * 2 + ["request m"] * 2


def test_a_stream_that_breaks(router, traces):
    """After its first token nobody continues it: the request failed, too."""
    with pytest.raises(ConnectionError):
        ask(router.attempts("m"), ConnectionError("cut"), before=lambda attempt: attempt.first_token())
    for name in ("attempt first", "request m"):
        span = traces.named(name)
        assert (span.attributes["redis_router.reason"], span.attributes["error.type"]) == (
            "connection",
            "ConnectionError",
        )
        assert span.status.status_code is StatusCode.ERROR


def test_a_return_out_of_the_loop_ends_the_request(router, traces):
    """At once, in asyncio as well, where the loop's generator is closed later."""

    async def answer():
        async for attempt in router.attempts("m"):
            with attempt:
                return "answer"
        raise AssertionError("there was nobody")

    async def ask_once():
        assert await answer() == "answer"
        assert sorted(traces.names) == ["attempt first", "request m"]

    asyncio.run(ask_once())
    assert len(traces.spans) == 2


def test_a_loop_that_is_left_between_two_attempts(router, traces):
    """The last outcome is the request's."""
    for attempt in router.attempts("m"):
        with attempt:
            raise Status(503)
        break
    assert traces.names == ["request m", "attempt first"]
    request = traces.named("request m")
    assert request.attributes["error.type"] == "http_503"
    assert request.attributes["redis_router.attempts"] == 1


def test_an_attempt_that_is_passed_over(router, traces):
    """No call, no span of one."""
    for _ in router.attempts("m"):
        pass
    assert traces.names == ["request"]


def test_a_cancelled_task(router, traces):
    """Its own doing: no error, and both spans end."""

    async def hang(began):
        async for attempt in router.attempts("m"):
            with attempt:
                began.set()
                await asyncio.sleep(60)

    async def cancel():
        began = asyncio.Event()
        task = asyncio.create_task(hang(began))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert sorted(traces.names) == ["attempt first", "request m"]
    assert {span.status.status_code for span in traces.spans} == {StatusCode.UNSET}
    assert {span.attributes["redis_router.outcome"] for span in traces.spans} == {"ignored"}


def test_a_deadline_of_the_callers(router, traces):
    """`asyncio.timeout` around the call: the exception is recorded."""

    async def late():
        async for attempt in router.attempts("m", max_attempts=1):
            with attempt:
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        asyncio.run(late())
    assert traces.named("attempt first").attributes["error.type"] == "TimeoutError"


def test_another_thread_ends_the_block(router, traces):
    """A context of its own: nothing of ours is there to be taken back."""
    attempt = router.attempt("m")
    attempt.__enter__()
    attempt.hand_over()
    done = []

    def end():
        attempt.__exit__(None, None, None)
        done.append(current().get_span_context().is_valid)

    thread = threading.Thread(target=end)
    thread.start()
    thread.join()
    assert done == [False]
    assert traces.names == ["attempt first"]


def test_another_thread_says_that_the_answer_began(router, traces):
    """It may have a copy of the block's context; the block's own is put right when it ends."""

    async def ask_once():
        before = current()
        with router.attempt("m") as attempt:
            await asyncio.to_thread(attempt.first_token)
        assert current() is before

    asyncio.run(ask_once())
    with traces.tracer.start_as_current_span("caller") as caller:
        with router.attempt("m") as attempt:
            thread = threading.Thread(target=attempt.first_token)
            thread.start()
            thread.join()
        assert current() is caller
    assert traces.names == ["attempt first", "caller", "attempt first"]


def test_a_span_of_the_blocks_own_stays_current(router, traces):
    """Where the answer begins inside of it."""
    with router.attempt("m") as attempt, traces.tracer.start_as_current_span("mine") as mine:
        attempt.first_token()
        assert current() is mine
    assert not current().get_span_context().is_valid


def test_blocks_that_end_in_any_order(router, traces):
    """Two generators side by side, which yield before they say that the answer began; and two attempts by hand."""

    def stream():
        for attempt in router.attempts("m"):
            with attempt:
                yield from (1, 2)

    with traces.tracer.start_as_current_span("caller") as caller:
        assert list(zip(stream(), stream(), strict=False)) == [(1, 1), (2, 2)]
        assert current() is caller
        one, other = router.attempt("m").__enter__(), router.attempt("m").__enter__()
        one.__exit__(None, None, None)
        assert current() is not caller
        other.__exit__(None, None, None)
        assert current() is caller


def test_it_stands_for_an_attempt(router):
    """Code that looks at types goes on; what an attempt has, this one has."""
    attempts = router.attempts("m", deadline=5.0)
    assert isinstance(attempts, Attempts)
    assert not attempts.is_over
    for attempt in attempts:
        assert isinstance(attempt, Attempt)
        assert attempt.verdict is None
        with attempt:
            assert 0 < attempt.timeout <= 5.0
            attempt.succeed(5.0)
        assert attempt.verdict.outcome is Outcome.SUCCESS
        with pytest.raises(RouterError, match="used already"):
            attempt.__enter__()
    single = router.attempt("m")
    assert (single.record, single.model, single.was_used) == ("first", "m", False)
    single.discard()


def test_a_block_that_goes_from_context_to_context(router, traces):
    """As a thread pool iterates a generator: each step in a copy of the caller's context."""

    def stream():
        with router.attempt("m"):
            yield 1
            yield 2

    made = stream()
    seen = []
    with traces.tracer.start_as_current_span("caller") as caller:
        for _ in range(3):
            copy = contextvars.copy_context()
            copy.run(next, made, None)
            seen.append(copy.run(current))
        assert current() is caller
    assert (seen[0].name, seen[1:]) == ("attempt first", [caller, caller])
    assert traces.tree() == ["caller", "  attempt first"]


def test_many_threads(router, traces):
    """Each request's spans are its own."""

    def some():
        for _ in range(10):
            ask(router.attempts("m"), Status(500), None)

    threads = [threading.Thread(target=some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    by_trace = {}
    for span in traces.spans:
        by_trace.setdefault(span.context.trace_id, []).append(span.name)
    assert len(by_trace) == 80
    assert all(names == ["request m", "attempt first", "attempt second"] for names in by_trace.values())


# Arguments


def test_what_is_no_use_is_refused():
    """As the router's own arguments are."""
    with pytest.raises(InvalidArgument, match="propagate is 'openai'"):
        TracedRouter("memory://", propagate="openai")
    with pytest.raises(InvalidArgument, match="on_transition is 5"):
        TracedRouter("memory://", on_transition=5)


def test_mistakes_have_no_spans(router, traces):
    """What is wrong before anything is asked, and a second use."""
    with pytest.raises(InvalidArgument):
        router.attempts("m", deadline=-1)
    with pytest.raises(UnknownProvider):
        router.attempt_at("nobody", "m")
    router.attempts("m")
    assert traces.names == []

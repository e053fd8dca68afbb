"""What the transports make of requests and responses, for httpx and httpx2 alike, on inner transports that tell."""

import asyncio
import gc
import importlib.util
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from redis_router import CircuitConfig, InvalidArgument, NoProviderAvailable, Outcome, Provider, Verdict
from redis_router.integrations.httpx import Upstream, failover, guard
from redis_router.integrations.httpx.answering import MOST_HELD
from tests.support import eventually, metric
from tests.support.fleet import NEVER, calls_under_way, chosen, half_open, health, new_router, new_worker

LIBRARIES = [name for name in ("httpx", "httpx2") if importlib.util.find_spec(name)]
ANSWER = {"choices": [{"message": {"content": "Hello"}}]}
CHUNK = b'data: {"choices": [{"delta": {"content": "Hello"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
EVENTS = {"content-type": "text/event-stream"}
URL = "https://router/v1/chat/completions"


@pytest.fixture(params=LIBRARIES)
def library(request):
    return importlib.import_module(request.param)


class Provided:
    """An inner transport that keeps what it was asked, and answers what it is given."""

    def __init__(self, library):
        self.library = library
        self.asked = []
        self.answers = []
        self.transport = library.MockTransport(self.answer)

    def answer(self, request):
        self.asked.append(request)
        answer = self.answers.pop(0) if self.answers else ANSWER
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, dict):
            return self.library.Response(200, json=answer)
        return answer


@pytest.fixture
def inner(library):
    return Provided(library)


@pytest.fixture
def router():
    with new_router("memory://transports", circuit=NEVER, strategy="weighted") as router:
        yield router
        for name in router.get_health_status():
            router.deregister_provider(name, everywhere=True)


def register(router, name, upstream, weight=1.0, models=("m",)):
    router.register_provider(Provider(name, models, weight=weight, client=upstream))


@pytest.fixture
def client(router, library, inner):
    """Under `failover`; "first" is asked before "second"."""
    register(router, "first", Upstream("https://first.example/v1", "one"), 1e6)
    register(router, "second", Upstream("https://second.example/base/v1/", "two", models={"m": "its-m"}), 1e-6)
    with library.Client(transport=failover(router, transport=inner.transport)) as client:
        yield client


# The request


def test_a_request_becomes_one_for_the_provider(client, inner):
    """URL, Host and key are the provider's; the rest is the client's."""
    headers = {"Authorization": "Bearer of-the-client", "OpenAI-Organization": "org", "Cookie": "a=b", "X-Trace": "t"}
    client.post(URL, params={"q": "1"}, headers=headers, json={"model": "m", "n": 1})
    (request,) = inner.asked
    assert str(request.url) == "https://first.example/v1/chat/completions?q=1"
    assert request.headers["host"] == "first.example"
    assert request.headers["authorization"] == "Bearer one"
    assert request.headers["x-trace"] == "t"
    assert not {"openai-organization", "cookie"} & set(request.headers)
    assert json.loads(request.content) == {"model": "m", "n": 1}


def test_the_next_provider_gets_its_own(client, inner, library):
    """Its names for models, too; the length of the body fits."""
    inner.answers = [library.Response(503), ANSWER]
    response = client.post(URL, headers={"x-api-key": "of-the-client"}, json={"model": "m", "text": "ü"})
    first, second = inner.asked
    assert str(second.url) == "https://second.example/base/v1/chat/completions"
    assert (first.headers["x-api-key"], second.headers["x-api-key"]) == ("one", "two")
    assert json.loads(second.content) == {"model": "its-m", "text": "ü"}
    assert int(second.headers["content-length"]) == len(second.content)
    told = response.headers["x-redis-router-provider"], response.headers["x-redis-router-attempts"]
    assert told == ("second", "2")


def test_the_body_stays_as_it_is_where_the_model_does(client, inner):
    """Byte for byte."""
    sent = b'{ "model":  "m", "x": 1.0 }'
    client.post(URL, content=sent, headers={"content-type": "application/json"})
    assert inner.asked[0].content == sent


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (URL, "https://res.openai.azure.com/openai/deployments/my%20gpt/chat/completions?api-version=2024-10-21"),
        (
            "https://router/openai/deployments/m/chat/completions?api-version=1",
            "https://res.openai.azure.com/openai/deployments/my%20gpt/chat/completions?api-version=2024-10-21",
        ),
    ],
)
def test_azure_has_deployments(router, library, inner, url, expected):
    """The model is in the path, the version in the query, the key in a header of its own."""
    azure = Upstream("https://res.openai.azure.com", "k", models={"m": "my gpt"}, api_version="2024-10-21")
    register(router, "azure", azure)
    with library.Client(transport=failover(router, transport=inner.transport)) as client:
        client.post(url, json={"model": "m"}, headers={"authorization": "Bearer x"})
    (request,) = inner.asked
    assert str(request.url) == expected
    assert request.headers["api-key"] == "k"
    assert "authorization" not in request.headers


def test_paths_of_anthropic(router, library, inner):
    """Its SDK's base URL has no /v1."""
    register(router, "claude", Upstream("https://api.anthropic.com", lambda: "fresh"))
    headers = {"anthropic-version": "2023-06-01", "x-api-key": "of-the-client"}
    with library.Client(transport=failover(router, transport=inner.transport)) as client:
        client.post("https://router/v1/messages", json={"model": "m"}, headers=headers)
    (request,) = inner.asked
    assert str(request.url) == "https://api.anthropic.com/v1/messages"
    assert request.headers["x-api-key"] == "fresh"


def test_a_base_url_of_another_form(router, library, inner):
    """What comes after it is the path."""
    register(router, "first", Upstream("https://first.example/api"))
    transport = failover(router, base_url="https://router/llm", transport=inner.transport)
    with library.Client(transport=transport) as client:
        client.post("https://router/llm/chat", json={"model": "m"}, headers={"authorization": "x"})
    assert str(inner.asked[0].url) == "https://first.example/api/chat"
    assert "authorization" not in inner.asked[0].headers, "a provider without a key gets none, and not the client's"


def test_a_stream_is_sent_once(client, inner, library):
    """A body that cannot be sent again: one try, whatever the answer; without a model, that of `failover`."""
    inner.answers = [library.Response(503), ANSWER]
    response = client.post(URL, content=iter([b"a", b"b"]))
    assert response.status_code == 400, "it names no model"
    assert response.json()["error"]["code"] == "ROUTER_NO_MODEL"


def test_a_stream_goes_to_one_provider(router, library, inner):
    register(router, "first", Upstream("https://first.example/v1"))
    register(router, "second", Upstream("https://second.example/v1"))
    inner.answers = [library.Response(503)]
    with library.Client(transport=failover(router, model="m", transport=inner.transport)) as client:
        assert client.post(URL, content=iter([b"a", b"b"])).status_code == 503
    (request,) = inner.asked
    assert request.read() == b"ab"


def test_time_outs_are_those_of_the_attempt(router, library, inner):
    """Half of the deadline while another may follow; never more than the client allows."""
    for name in ("first", "second"):
        register(router, name, Upstream("https://first.example/v1"))
    inner.answers = [library.Response(503)]
    with library.Client(transport=failover(router, deadline=10.0, transport=inner.transport)) as client:
        client.post(URL, json={"model": "m"}, timeout=library.Timeout(60.0, connect=2.0))
    first, second = (request.extensions["timeout"] for request in inner.asked)
    assert 4.0 < first["write"] <= 5.0
    assert 9.0 < second["write"] <= 10.0
    assert first["connect"] == second["connect"] == 2.0


def test_options_for_one_request(client, inner, library):
    """In its extensions."""
    inner.answers = [library.Response(503)]
    response = client.post(URL, json={"model": "m"}, extensions={"redis_router": {"max_attempts": 1}})
    assert (response.status_code, len(inner.asked)) == (503, 1)


def test_fallback_models(router, library, inner):
    """Another model, at another provider."""
    register(router, "first", Upstream("https://first.example/v1"), models=("big",))
    register(router, "second", Upstream("https://second.example/v1", models={"small": "tiny"}), models=("small",))
    inner.answers = [library.ConnectError("refused")]
    transport = failover(router, fallbacks={"big": ["small"]}, transport=inner.transport)
    with library.Client(transport=transport) as client:
        assert client.post(URL, json={"model": "big"}).status_code == 200
    assert json.loads(inner.asked[1].content)["model"] == "tiny"


# The response


def test_an_answer_can_be_read_in_every_way(client, inner, library):
    """As it came, also where it was compressed."""
    import gzip

    content = gzip.compress(json.dumps(ANSWER).encode())
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    for read in (
        lambda r: r.read(),
        lambda r: b"".join(r.iter_bytes()),
        lambda r: gzip.decompress(b"".join(r.iter_raw())),
    ):
        inner.answers = [library.Response(200, headers=headers, stream=library.ByteStream(content))]
        with client.stream("POST", URL, json={"model": "m"}) as response:
            assert json.loads(read(response)) == ANSWER


def test_what_is_held_back_is_bounded(client, inner, library, router):
    """A long answer is passed on as it comes, and is nobody else's from then on."""
    sent = []

    def parts():
        for _ in range(64):
            sent.append(b" " * 65536)
            yield sent[-1]
        raise library.ReadError("broken")

    inner.answers = [library.Response(200, headers={"content-type": "application/json"}, content=parts())]
    with client.stream("POST", URL, json={"model": "m"}) as response:
        assert MOST_HELD < 65536 * len(sent) <= MOST_HELD + 2 * 65536
        with pytest.raises(library.ReadError):
            response.read()
    assert len(inner.asked) == 1
    assert health(router, "first").last_failure == "connection"


def test_preambles_for_ever_are_passed_on_at_last(client, inner, library):
    """Comments without an end: no more is held back than the bound."""
    inner.answers = [library.Response(200, headers=EVENTS, content=iter([b": x\n" * 300_000, CHUNK, DONE]))]
    assert client.post(URL, json={"model": "m"}).content.endswith(CHUNK + DONE)


def test_other_kinds_of_answers_are_passed_on(client, inner, library, router):
    """Sound: from its first bytes on it is this provider's."""
    inner.answers = [library.Response(200, headers={"content-type": "audio/mpeg"}, content=iter([b"ID3", b"..."]))]
    assert client.post(URL, json={"model": "m"}).content == b"ID3..."
    router.flush()
    assert metric(router, "requests_total", provider="first", outcome="success") == 1


def test_compressed_events_are_passed_on_unread(client, inner, library):
    """Nobody asked for them: requests for streams say `identity`."""
    headers = {**EVENTS, "content-encoding": "gzip"}
    inner.answers = [library.Response(200, headers=headers, stream=library.ByteStream(b"x"))]
    with client.stream("POST", URL, json={"model": "m", "stream": True}) as response:
        assert b"".join(response.iter_raw()) == b"x"
    assert inner.asked[0].headers["accept-encoding"] == "identity"


def test_nothing_is_left_of_a_limit(router, client, inner, library):
    """An answer that was the last to fit rests its provider."""
    headers = {f"x-ratelimit-{what}-requests": said for what, said in
               (("remaining", "0"), ("limit", "10"), ("reset", "100s"))}  # fmt: skip
    inner.answers = [library.Response(200, headers=headers, json=ANSWER)]
    client.post(URL, json={"model": "m"})
    assert health(router, "first").cooldown_ms == 10_000


def test_a_list_of_models_is_no_measure_of_latency(router, library, inner):
    """What is no question to a model counts where it fails, and only there."""
    transport = guard(router, "llm", transport=inner.transport)
    with library.Client(transport=transport) as client:
        inner.answers = [{"data": []}, library.Response(500)]
        assert [client.get("https://llm.example/v1/models").status_code for _ in range(2)] == [200, 500]
    found = health(router, "llm")
    assert metric(router, "requests_total", provider="llm", outcome="success") == 0
    assert found.last_failure == "http_500"


def test_a_redirect_says_nothing_under_guard(router, library, inner):
    """The client follows it."""
    with library.Client(transport=guard(router, "llm", transport=inner.transport), follow_redirects=True) as client:
        inner.answers = [library.Response(307, headers={"location": "https://llm.example/v2"}), ANSWER]
        assert client.post("https://llm.example/v1", json={}).status_code == 200
    router.flush()
    assert metric(router, "requests_total", provider="llm", outcome="ignored") == 1
    assert metric(router, "requests_total", provider="llm", outcome="success") == 1


def test_a_classifier_of_ones_own(library, inner):
    """It sees what failed, with its status and headers, and the response of what went well."""
    seen = []

    def classify(said):
        seen.append(said.status_code)
        return Verdict(Outcome.FAILURE, "teapot") if said.status_code == 418 else None

    with new_router("memory://classified", circuit=NEVER, classify=classify) as router:
        transport = guard(router, "llm", transport=inner.transport)
        with library.Client(transport=transport) as client:
            inner.answers = [library.Response(418), ANSWER]
            assert [client.post(URL, json={}).status_code for _ in range(2)] == [418, 200]
        assert health(router, "llm").last_failure == "teapot"
    assert seen == [418, 200]


def test_an_error_of_the_users_code_is_raised(client, inner):
    """Of an inner transport, or a function that returns the key: it is no answer, and nobody's 502."""
    inner.answers = [ZeroDivisionError("a bug"), ZeroDivisionError("again")]
    with pytest.raises(ZeroDivisionError):
        client.post(URL, json={"model": "m"})


# What is refused


@pytest.mark.parametrize("url", ["", "api.openai.com/v1", None, "https://x/v1?key=1"])
def test_a_base_url_that_is_none(url):
    with pytest.raises(InvalidArgument, match="base_url is"):
        Upstream(url)


def test_a_key_is_not_shown():
    assert "secret" not in repr(Upstream("https://x/v1", "secret", headers={"x": "secret"}))


def test_options_are_checked_at_once(router):
    with pytest.raises(InvalidArgument, match="deadline"):
        failover(router, deadline=-1.0)


def test_a_client_that_is_no_upstream(router, library, inner):
    """It is said by name; nothing is recorded of it."""
    register(router, "first", "https://first.example/v1")
    with (
        library.Client(transport=failover(router, transport=inner.transport)) as client,
        pytest.raises(InvalidArgument, match=r"provider 'first'.*give an Upstream"),
    ):
        client.post(URL, json={"model": "m"})


def test_a_request_of_another_library(router):
    with pytest.raises(TypeError, match="no request of httpx"):
        failover(router).handle_request(object())


# Nothing leaks


class Slow:
    """Of an inner transport: it lets others run at each step. `given` has the streams of its answers."""

    def __init__(self, library, parts, headers):
        self.library, self.parts, self.headers = library, parts, headers
        self.given = []

    async def handle_async_request(self, request):
        await asyncio.sleep(0)
        stream = _slow_stream(self.library)(self.parts)
        self.given.append(stream)
        return self.library.Response(200, headers=self.headers, stream=stream)

    async def aclose(self):
        """Nothing is open."""


def _slow_stream(library):
    class Stream(library.AsyncByteStream):
        def __init__(self, parts):
            self.parts, self.closed = parts, False

        async def __aiter__(self):
            for part in self.parts:
                await asyncio.sleep(0)
                yield part

        async def aclose(self):
            self.closed = True
            await asyncio.sleep(0)

    return Stream


def transport_over(kind, router, inner):
    """Of either kind, for the provider and model "llm"."""
    if kind == "guard":
        return guard(router, "llm", transport=inner)
    register(router, "llm", Upstream("https://llm.example/v1"), models=("llm",))
    return failover(router, transport=inner, deadline=20.0)


async def cancelled_after(library, transport, steps):
    """A client that reads a whole stream is cancelled after so many turns of the loop."""

    async def use():
        async with (
            library.AsyncClient(transport=transport) as client,
            client.stream("POST", URL, json={"model": "llm"}) as response,
        ):
            async for _ in response.aiter_raw():
                await asyncio.sleep(0)

    task = asyncio.ensure_future(use())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


KINDS = pytest.mark.parametrize("kind", ["guard", "failover"])
STEPS = range(14)


@KINDS
@pytest.mark.parametrize("stream", [False, True])
def test_a_task_that_is_cancelled_leaves_nothing_behind(library, kind, stream):
    """At each place where it waits: no call stays in flight, no stream stays open, and it is nobody's failure."""
    parts, headers = ([CHUNK, CHUNK, DONE], EVENTS) if stream else ([b"{", b"}"], {})
    with new_router(f"memory://cancel-{library.__name__}-{kind}-{stream}", circuit=NEVER) as router:
        inner = Slow(library, parts, headers)
        transport = transport_over(kind, router, inner)
        for step in STEPS:
            asyncio.run(cancelled_after(library, transport, step))
            gc.collect()
            assert calls_under_way(router, "llm") == 0
            assert all(stream.closed for stream in inner.given)
        router.flush()
        assert metric(router, "requests_total", provider="llm", outcome="failure") == 0


@KINDS
def test_a_trial_call_that_is_cancelled_gives_its_permit_back(library, kind):
    """There is one permit, for as long as any: the next call finds it again, wherever the one before was cancelled."""
    url = f"memory://trial-{library.__name__}-{kind}"
    circuit = CircuitConfig(consecutive_failure_limit=3, half_open_success_threshold=1000, open_timeout=0.05)
    options = {"circuit": circuit, "when_all_open": "raise", "permit_ttl": 60.0}
    worker = new_worker(url)
    with new_router(url, **options) as router:
        transport = transport_over(kind, router, Slow(library, [CHUNK, CHUNK, DONE], EVENTS))
        half_open(router, worker, "llm")
        for step in STEPS:
            before = len(transport._inner.given)

            def asked(step=step, before=before):
                asyncio.run(cancelled_after(library, transport, step))
                return step < 2 or len(transport._inner.given) > before

            eventually(asked, f"a call was made after the one that was cancelled at step {step - 1}")
        eventually(lambda: chosen(router, "llm"), "the permit is there at last")
    worker.stop()


@KINDS
def test_threads_that_do_all_sorts_of_things_leave_nothing_behind(library, kind):
    """Eight of them, fifty requests each: answered, failed, broken, hung up on, dropped; each is counted once."""
    number, threads = 50, 8

    def broken():
        yield CHUNK
        raise library.ReadError("broken")

    answers = [
        lambda: library.Response(200, json=ANSWER),
        lambda: library.Response(503),
        lambda: library.Response(404),
        lambda: library.Response(200, headers=EVENTS, content=iter([CHUNK, CHUNK, DONE])),
        lambda: library.Response(200, headers=EVENTS, content=broken()),
        lambda: library.Response(200, headers=EVENTS, content=iter([])),
    ]

    def inner(request):
        return answers[int(request.headers["x-answer"])]()

    def use(client, seed):
        draw = random.Random(seed)
        for _ in range(number):
            headers = {"x-answer": str(draw.randrange(len(answers)))}
            with (
                suppress(library.ReadError),
                client.stream("POST", URL, json={"model": "llm"}, headers=headers) as response,
            ):
                parts = response.iter_raw()
                for _ in range(draw.randrange(4)):
                    next(parts, None)

    with new_router(f"memory://threads-{library.__name__}-{kind}", circuit=NEVER) as router:
        transport = transport_over(kind, router, library.MockTransport(inner))
        with library.Client(transport=transport) as client, ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(use, client, seed) for seed in range(threads)]:
                done.result()
        gc.collect()
        assert calls_under_way(router, "llm") == 0
        assert router.flush()
        outcomes = ("success", "failure", "ignored", "rate_limited")
        counted = [metric(router, "requests_total", provider="llm", outcome=outcome) for outcome in outcomes]
        assert sum(counted) == number * threads


@pytest.mark.parametrize("transport", ["guard", "failover"])
def test_a_response_that_nobody_reads(router, library, inner, transport):
    """It is dropped without a word: its call ends with it, and says nothing."""
    register(router, "llm", Upstream("https://llm.example/v1"), models=("llm",))
    made = (
        guard(router, "llm", transport=inner.transport)
        if transport == "guard"
        else failover(router, transport=inner.transport)
    )
    inner.answers = [library.Response(200, headers=EVENTS, content=iter([CHUNK, CHUNK]))]
    response = made.handle_request(library.Request("POST", URL, json={"model": "llm"}))
    assert calls_under_way(router, "llm") == 1
    del response
    gc.collect()
    assert calls_under_way(router, "llm") == 0
    router.flush()
    assert metric(router, "requests_total", provider="llm", outcome="ignored") == 1


def test_nobody_under_anthropic_and_openai(router, library, inner):
    """Two shapes of one refusal."""
    register(router, "first", Upstream("https://first.example/v1"))
    router.update_health("first", available=False)
    with library.Client(transport=failover(router, transport=inner.transport)) as client:
        for headers in ({}, {"anthropic-version": "1"}):
            response = client.post(URL, json={"model": "m"}, headers=headers)
            said = response.json()
            assert (response.status_code, response.headers["x-should-retry"]) == (503, "false")
            assert said["error"]["code"] == NoProviderAvailable.code
            assert said.get("type") == ("error" if headers else None)
    assert inner.asked == []


def test_a_client_that_reads_too_slowly_says_nothing_about_the_provider(router, library, inner):
    """The deadline ran out between two parts of a stream that was there."""
    register(router, "first", Upstream("https://first.example/v1", "one"))
    inner.answers = [library.Response(200, headers=EVENTS, content=iter([CHUNK, CHUNK, DONE]))]
    options = {"extensions": {"redis_router": {"deadline": 0.2}}}
    client = library.Client(transport=failover(router, transport=inner.transport))
    with client, client.stream("POST", URL, json={"model": "m", "stream": True}, **options) as answer:
        parts = answer.iter_raw()
        next(parts)
        over = time.monotonic() + 0.25
        eventually(lambda: time.monotonic() > over)
        with pytest.raises(library.ReadTimeout):
            list(parts)
    router.flush()
    assert metric(router, "requests_total", provider="first", outcome="ignored") == 1
    assert metric(router, "requests_total", provider="first", outcome="failure") == 0


def test_a_stream_says_whether_it_came_to_its_end(router, library, inner):
    register(router, "first", Upstream("https://first.example/v1", "one"))
    inner.answers = [library.Response(200, headers=EVENTS, content=iter([CHUNK, *end])) for end in ([], [DONE])]
    with library.Client(transport=failover(router, transport=inner.transport)) as client:
        answers = [client.post(URL, json={"model": "m", "stream": True}) for _ in range(2)]
    assert [answer.extensions["redis_router"].is_cut_short for answer in answers] == [True, False]

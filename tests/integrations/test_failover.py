"""`failover` under the SDKs, unmodified and with their own retries, against servers that misbehave."""

import socket

import anthropic
import openai
import pytest

from redis_router import Provider
from redis_router.integrations.httpx import Upstream, failover
from tests.support import eventually, metric
from tests.support.fleet import health
from tests.support.http import ANSWER

TEXT = "".join(ANSWER)
FAULTS = [
    ((500, {}), "http_500"),
    ((503, {"retry-after": "1"}), "http_503"),
    ((529, {}), "http_529"),
    ((408, {}), "http_408"),
    ((401, {}), "unauthorized"),
    ((400, {}, {"error": {"message": "Your credit balance is too low"}}), "payment_required"),
    ((307, {"location": "http://127.0.0.1:9/v1"}), "redirect"),
    ((200, {"content-type": "text/html"}, "<html>"), "garbage"),
    ((200, {}, {"error": {"message": "no capacity", "code": 502}}), "error"),
    ("reset", "connection"),
    ("hang", "timeout"),
    ("silent", "timeout"),
    ("garbage", "garbage"),
]
STREAM_FAULTS = [
    *FAULTS,
    ("cut_early", "connection"),
    ("overloaded_early", "overloaded"),
    ("empty", "incomplete"),
    ("keep_alive", "timeout"),
]
SDK_ERRORS = (openai.APIError, anthropic.APIError)


@pytest.fixture
def router(sdk, servers, started):
    """Two providers; "first" is asked first."""
    names = ("first", "second")
    return started({name: sdk.upstream(server, name) for name, server in zip(names, servers, strict=True)})


def name_of(case):
    fault, reason = case
    return f"{fault if isinstance(fault, str) else fault[0]}-{reason}"


@pytest.mark.parametrize(
    ("stream", "fault", "reason"),
    [
        *(pytest.param(False, *case, id=f"whole-{name_of(case)}") for case in FAULTS),
        *(pytest.param(True, *case, id=f"stream-{name_of(case)}") for case in STREAM_FAULTS),
    ],
)
def test_what_fails_before_its_content_is_answered_by_the_next(router, sdk, servers, stream, fault, reason):
    """One call each; the SDK knows of nothing, and the record says why."""
    servers[0].faults.append(fault)
    client = sdk.client(failover(router, deadline=1.0 if reason == "timeout" else 20.0))
    assert sdk.ask(client, stream) == TEXT
    assert [len(server.asked) for server in servers] == [1, 1]
    found = health(router, "first")
    assert (found.consecutive_failures, found.last_failure) == (1, reason)
    assert metric(router, "requests_total", provider="second", outcome="success") == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_rate_limit_cools_down(router, sdk, servers, stream):
    """As long as it says; its circuit stays as it is."""
    servers[0].faults.append((429, {"retry-after": "20"}))
    client = sdk.client(failover(router))
    assert [sdk.ask(client, stream), sdk.ask(client, stream)] == [TEXT, TEXT]
    assert [len(server.asked) for server in servers] == [1, 2]
    found = health(router, "first")
    assert (found.cooldown_ms, found.consecutive_failures) == (20_000, 0)


@pytest.mark.parametrize(("fault", "reason"), [("cut", "connection"), ("overloaded", "overloaded")])
def test_a_stream_that_breaks_after_its_content_is_nobody_elses(router, sdk, servers, fault, reason):
    """The error reaches the caller, with what came before it; two answers are never spliced."""
    servers[0].faults.append(fault)
    client = sdk.client(failover(router))
    with pytest.raises(Exception) as caught:
        sdk.ask(client, True)
    assert isinstance(caught.value, SDK_ERRORS) or "ReadError" in type(caught.value).__name__
    assert [len(server.asked) for server in servers] == [1, 0]
    assert health(router, "first").last_failure == reason


def test_a_stream_that_ends_too_early_is_a_failure(router, sdk, servers):
    """The SDKs do not notice it; the record does."""
    servers[0].faults.append("short")
    assert TEXT.startswith(sdk.ask(sdk.client(failover(router)), True))
    assert health(router, "first").last_failure == "incomplete"


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_bad_request_is_the_callers(router, sdk, servers, status):
    """Passed on at once, as the provider said it, and no word about the provider."""
    servers[0].faults.append((status, {}))
    with pytest.raises(SDK_ERRORS) as caught:
        sdk.ask(sdk.client(failover(router)))
    assert caught.value.status_code == status
    assert "as told" in str(caught.value)
    assert [len(server.asked) for server in servers] == [1, 0]
    assert health(router, "first").failure_rate == 0
    assert metric(router, "requests_total", provider="first", outcome="ignored") == 1


@pytest.mark.parametrize(
    ("faults", "status"),
    [([(500, {}), (503, {"retry-after": "0"})], 503), (["reset", "reset"], 502), (["hang", "hang"], 504)],
    ids=str,
)
def test_the_sdk_does_not_multiply_our_tries(router, sdk, servers, faults, status):
    """With its retries as they are by default: each provider is asked once."""
    for server, fault in zip(servers, faults, strict=True):
        server.faults.append(fault)
    with pytest.raises(SDK_ERRORS) as caught:
        sdk.ask(sdk.client(failover(router, deadline=1.0 if status == 504 else 20.0)))
    assert caught.value.status_code == status
    assert [len(server.asked) for server in servers] == [1, 1]


def test_nobody_available_is_a_503_with_reasons(router, sdk, servers):
    """In the shape that the SDK reads, at once, and without its retries."""
    for name in ("first", "second"):
        router.update_health(name, available=False)
    with pytest.raises(SDK_ERRORS) as caught:
        sdk.ask(sdk.client(failover(router)), True)
    error = caught.value
    said = error.body.get("error", error.body)
    assert (error.status_code, said["code"]) == (503, "ROUTER_NO_PROVIDER_AVAILABLE")
    assert set(said["reasons"]) == {"first", "second"}
    assert [len(server.asked) for server in servers] == [0, 0]


def test_it_says_when_to_come_back(router, sdk, servers):
    """A rate limit at both: the 503 carries the time of the first to return."""
    for server in servers:
        server.faults.append((429, {"retry-after": "40"}))
    client = sdk.client(failover(router))
    with pytest.raises(SDK_ERRORS) as caught:
        sdk.ask(client)
    assert caught.value.status_code == 429
    with pytest.raises(SDK_ERRORS) as caught:
        sdk.ask(client)
    assert caught.value.status_code == 503
    assert 35 <= int(caught.value.response.headers["retry-after"]) <= 40
    assert [len(server.asked) for server in servers] == [1, 1]


def test_nobody_listens(router, sdk, servers):
    """A provider that is gone: refused connections."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    router.register_provider(Provider("first", ("m",), weight=1e6, client=Upstream(f"{url}/v1")))
    assert sdk.ask(sdk.client(failover(router))) == TEXT
    assert health(router, "first").last_failure == "connection"


def test_a_client_that_hangs_up_says_nothing_about_the_provider(router, sdk, servers):
    """After the first event it closes the stream; the connection ends, and nothing stays in flight."""
    servers[0].faults.append("slow")
    client = sdk.client(failover(router))
    if sdk.is_async:

        async def hang_up():
            events = await sdk._create(client)(**sdk._question({}), stream=True)
            await anext(aiter(events))
            await events.close()

        sdk.run(hang_up())
    else:
        events = sdk._create(client)(**sdk._question({}), stream=True)
        next(iter(events))
        events.close()
    assert router.flush()
    assert metric(router, "requests_total", provider="first", outcome="ignored") == 1
    eventually(lambda: metric(router, "calls_in_flight", provider="first") == 0)


def test_a_slow_answer_is_an_answer(router, sdk, servers):
    """Its pauses are shorter than what the attempt has; the averages take the time until its first token."""
    servers[0].faults.append("slow")
    assert sdk.ask(sdk.client(failover(router, deadline=20.0, first_token_timeout=10.0)), True) == TEXT
    assert [len(server.asked) for server in servers] == [1, 0]
    assert router.flush()
    assert metric(router, "requests_total", provider="first", outcome="success") == 1

"""`guard` under the SDKs: one provider is watched, and left alone while its circuit is open."""

import anthropic
import openai
import pytest

from redis_router import CircuitConfig, InvalidArgument, Provider
from redis_router.integrations.httpx import guard
from tests.support import eventually, metric
from tests.support.fleet import health, until
from tests.support.http import ANSWER

TEXT = "".join(ANSWER)
SDK_ERRORS = (openai.APIError, anthropic.APIError)
THREE = CircuitConfig(consecutive_failure_limit=3, half_open_success_threshold=1, open_timeout=30.0)


@pytest.fixture
def server(servers):
    return servers[0]


@pytest.fixture
def router(started):
    return started({}, circuit=THREE)


@pytest.fixture
def ask(router, sdk, server):
    """Asks with the SDK as it is, but for its retries."""
    base = server.url if sdk.module is anthropic else f"{server.url}/v1"
    client = sdk.client(guard(router, "llm"), base_url=base, max_retries=0, timeout=1.0)

    def ask(stream=False, **options):
        return sdk.ask(client, stream, **options)

    ask.client = client
    return ask


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_passed_on_and_counted(router, ask, server, stream):
    """The request stays as it is; of a stream the time until its first token counts."""
    assert ask(stream) == TEXT
    assert server.asked[0]["model"] == "m"
    _, headers = server.heads[0]
    assert "of-the-client" in headers.get("authorization", headers.get("x-api-key"))
    assert health(router, "llm").latency_ms > 0
    assert metric(router, "requests_total", provider="llm", outcome="success") == 1


FAULTS = [
    (False, (500, {}), "http_500"),
    (False, (401, {}), "unauthorized"),
    (False, "reset", "connection"),
    (False, "hang", "timeout"),
    (False, "silent", "timeout"),
    (False, "garbage", "garbage"),
    (True, (503, {}), "http_503"),
    (True, "cut_early", "connection"),
    (True, "cut", "connection"),
    (True, "overloaded_early", "overloaded"),
    (True, "overloaded", "overloaded"),
    (True, "silent", "timeout"),
    (True, "garbage", "garbage"),
]


@pytest.mark.parametrize(("stream", "fault", "reason"), FAULTS, ids=str)
def test_a_failure_reaches_the_caller_and_the_record(router, ask, server, stream, fault, reason):
    """As the SDK says it."""
    server.faults.append(fault)
    with pytest.raises(Exception) as caught:
        ask(stream)
    assert not isinstance(caught.value, AssertionError)
    assert health(router, "llm").last_failure == reason
    assert len(server.asked) == 1


@pytest.mark.parametrize("fault", ["short", "empty"])
def test_a_stream_that_ends_too_early(router, ask, server, fault):
    """The SDKs do not notice it; the record does."""
    server.faults.append(fault)
    assert TEXT.startswith(ask(True))
    assert health(router, "llm").last_failure == "incomplete"


def test_nobody_is_asked_while_the_circuit_is_open(router, sdk, server, ask):
    """After three failures: a 503 of ours, which the SDK does not try again."""
    server.faults.extend([(500, {})] * 3)
    for _ in range(3):
        with pytest.raises(SDK_ERRORS):
            ask()
    router.flush()
    until(router, "llm", "open")
    client = sdk.client(guard(router, "llm"), base_url=server.url)  # with its retries
    with pytest.raises(SDK_ERRORS) as caught:
        sdk.ask(client)
    error = caught.value
    said = error.body.get("error", error.body)
    assert (error.status_code, said["code"]) == (503, "ROUTER_NO_PROVIDER_AVAILABLE")
    assert "open" in said["reasons"]["llm"]
    assert int(error.response.headers["retry-after"]) > 0
    assert len(server.asked) == 3


def test_a_trial_call_closes_the_circuit(started, sdk, server):
    """The first call after the open time holds the permit."""
    circuit = CircuitConfig(consecutive_failure_limit=3, half_open_success_threshold=1, open_timeout=0.05)
    router = started({}, circuit=circuit, safety_net_after=0.05, when_all_open="raise")
    base = server.url if sdk.module is anthropic else f"{server.url}/v1"
    client = sdk.client(guard(router, "llm"), base_url=base, max_retries=0)
    server.faults.extend([(500, {})] * 3)
    for _ in range(3):
        with pytest.raises(SDK_ERRORS):
            sdk.ask(client)
    router.flush()

    def answered():
        try:
            return sdk.ask(client) == TEXT
        except SDK_ERRORS:  # the circuit is open
            return False

    eventually(answered)
    router.flush()
    until(router, "llm", "closed")


def test_two_guards_of_one_router_do_not_mix(router, sdk, servers):
    """Each asks its own provider."""
    names = ("llm", "other")
    bases = [server.url if sdk.module is anthropic else f"{server.url}/v1" for server in servers]
    for name, base in zip(names, bases, strict=True):
        assert sdk.ask(sdk.client(guard(router, name), base_url=base)) == TEXT
    assert [len(server.asked) for server in servers] == [1, 1]
    router.flush()
    assert [metric(router, "requests_total", provider=name, outcome="success") for name in names] == [1, 1]


def test_a_provider_with_a_weight_or_a_probe(router):
    """It must serve its own name, or another might be asked in its place."""
    guard(router, Provider("llm", ("llm", "m"), probe="none"))
    with pytest.raises(InvalidArgument, match="name 'llm' among its models"):
        guard(router, Provider("llm", ("m",)))

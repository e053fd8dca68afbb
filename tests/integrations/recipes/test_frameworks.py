"""pydantic-ai, LangChain and LlamaIndex above `failover`: as they are, with their own retries, before real servers."""

import re

import pytest

from redis_router.integrations.httpx import failover
from tests.integrations.recipes.conftest import CITY
from tests.support import eventually, metric
from tests.support.fleet import health
from tests.support.http import ANSWER

TEXT = "".join(ANSWER)
FAULTS = [
    ((503, {}), "http_503"),
    ((401, {}), "unauthorized"),
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


@pytest.mark.parametrize(
    ("stream", "fault", "reason"),
    [(False, *case) for case in FAULTS] + [(True, *case) for case in STREAM_FAULTS],
)
def test_what_fails_before_its_content_is_answered_by_the_next(router, servers, framework, stream, fault, reason):
    """One call each; the framework knows of nothing, and the record says why."""
    servers[0].faults.append(fault)
    asks = framework(failover(router, deadline=1.0 if reason == "timeout" else 20.0))
    assert asks.ask(stream) == TEXT
    assert [len(server.asked) for server in servers] == [1, 1]
    assert servers[1].heads[0][1]["authorization"] == "Bearer key-of-second"
    assert health(router, "first").last_failure == reason


@pytest.mark.parametrize("stream", [False, True])
def test_a_rate_limit_cools_down(router, servers, framework, stream):
    """As long as it says; meanwhile it is not asked."""
    servers[0].faults.append((429, {"retry-after": "20"}))
    asks = framework(failover(router))
    assert [asks.ask(stream), asks.ask(stream)] == [TEXT, TEXT]
    assert [len(server.asked) for server in servers] == [1, 2]
    assert health(router, "first").cooldown_ms == 20_000


@pytest.mark.parametrize(("fault", "reason"), [("cut", "connection"), ("overloaded", "overloaded")])
def test_a_stream_that_breaks_after_its_content_is_nobody_elses(router, servers, framework, fault, reason):
    """The program hears of it; two answers are never spliced."""
    servers[0].faults.append(fault)
    asks = framework(failover(router))
    with pytest.raises(Exception) as caught:
        asks.ask(True)
    assert re.search(r"(?i)connection|overloaded|readerror", f"{caught.typename}: {caught.value}")
    assert [len(server.asked) for server in servers] == [1, 0]
    assert health(router, "first").last_failure == reason


@pytest.mark.parametrize("stream", [False, True])
def test_tries_are_not_multiplied(router, servers, framework, stream):
    """Each provider is asked once, whatever retries the framework and the SDK have."""
    for server in servers:
        server.faults.append((503, {"retry-after": "0"}))
    with pytest.raises(Exception, match="503"):
        framework(failover(router)).ask(stream)
    assert [len(server.asked) for server in servers] == [1, 1]


def test_nobody_available_is_said_with_reasons(router, servers, framework):
    """At once; nobody is asked."""
    for name in ("first", "second"):
        router.update_health(name, available=False)
    with pytest.raises(Exception, match="first: drained"):
        framework(failover(router)).ask()
    assert [len(server.asked) for server in servers] == [0, 0]


def test_a_program_that_leaves_a_stream_says_nothing_about_the_provider(router, servers, framework):
    """Nothing stays in flight."""
    servers[0].faults.append("slow")
    asks = framework(failover(router))
    asks.first_part()
    eventually(lambda: asks.turn() and metric(router, "requests_total", provider="first", outcome="ignored") == 1)
    eventually(lambda: metric(router, "calls_in_flight", provider="first") == 0)


def test_tools_are_called(router, servers, framework):
    """Both questions of the conversation fail at the first provider."""
    for server in servers:
        server.tool = ("weather", {"city": CITY})
    servers[0].faults.extend([(503, {}), (503, {})])
    asks = framework(failover(router))
    assert asks.ask_tool() == TEXT
    assert asks.weather_of == [CITY]
    assert [len(server.asked) for server in servers] == [2, 2]
    assert servers[1].asked[0]["tools"][0]["function"]["name"] == "weather"

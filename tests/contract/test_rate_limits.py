"""A provider wants no calls for a while: here at once, soon in the fleet, and for how long."""

import time
from types import SimpleNamespace

import pytest

from redis_router import InvalidArgument, NoProviderAvailable
from tests.support import eventually, metric
from tests.support.fleet import (
    Status,
    ask,
    chosen,
    half_open,
    health,
    only,
)


class TestRateLimits:
    def test_what_one_replica_is_told_every_replica_heeds(self, fleet):
        """At once, for as long as the provider says; and its circuit stays closed."""
        first, second = fleet()
        only(first, "azure")
        with pytest.raises(Status), first.attempt("gpt-4o"):
            raise Status(429, retry_after="20")
        first.update_health("openai", available=True)
        assert first.flush()
        for replica in (first, second):
            eventually(lambda replica=replica: replica.get_health_status()["azure"].cooldown_until_ms > 0)
            eventually(lambda replica=replica: replica.get_health_status()["openai"].available)
            assert {replica.select_provider("gpt-4o").name for _ in range(10)} == {"openai"}
            assert replica.get_circuit_state("azure") == "closed"
        assert metric(first, "requests_total", provider="azure", outcome="rate_limited") == 1

    def test_when_it_is_over_calls_flow_again(self, fleet):
        """Without any news: each replica looks at the clock."""
        first, second = fleet()
        with first.attempt("gpt-4o") as attempt:
            attempt.rate_limited(1.0)
        name = attempt.provider.name
        eventually(
            lambda: name not in {second.select_provider("gpt-4o").name for _ in range(4)}, "the limit is heard of"
        )
        eventually(lambda: name in {second.select_provider("gpt-4o").name for _ in range(4)}, "and is over")
        assert second.get_health_status()[name].cooldown_until_ms > 0, "the record still says until when"

    def test_the_next_provider_is_tried(self, fleet):
        """A rate limit is no reason to fail the request."""
        replica, _ = fleet()
        tried = ask(replica.attempts("gpt-4o"), Status(429, retry_after="9"), None)
        assert sorted(attempt.provider.name for attempt in tried) == ["azure", "openai"]

    def test_what_a_provider_says_is_believed_within_bounds(self, fleet):
        """A day is too long; where it says nothing, the default."""
        replica, _ = fleet(rate_limit_cooldown=3.0, rate_limit_cooldown_max=60.0)
        for provider, said, expected in (("azure", {"retry_after": "86400"}, 60), ("openai", {}, 3)):
            replica.update_health(provider, available=True)
            only(replica, provider)
            with pytest.raises(Status), replica.attempt("gpt-4o"):
                raise Status(429, **said)
            assert health(replica, provider).cooldown_ms == expected * 1000

    def test_a_trial_call_that_is_limited_gives_its_permit_back(self, fleet, checker, backend):
        """Without a verdict: half-open goes on."""
        replica, _ = fleet()
        only(replica, "openai")
        half_open(replica, checker())

        def trial():
            try:
                with replica.attempt("gpt-4o") as attempt:
                    assert attempt.permit is not None
                    attempt.rate_limited(0.2)
                return True
            except NoProviderAvailable:
                return False

        eventually(trial)
        found = health(replica, "openai")
        assert (found.circuit_state, found.consecutive_successes) == ("half_open", 0)
        assert backend.permits() == {}


class TestTheLastThatFits:
    def test_its_provider_rests_without_a_call_that_fails(self, bad_and_good):
        """All replicas leave it alone until the next call fits; it counts as the success that it is."""
        first, second = bad_and_good(), bad_and_good()
        with first.attempt("m", exclude=["good"]) as attempt:
            attempt.classify(SimpleNamespace(status_code=200, headers={
                "X-RateLimit-Remaining-Requests": "0",
                "X-RateLimit-Limit-Requests": "10",
                "X-RateLimit-Reset-Requests": "200s",
            }))  # fmt: skip
        assert {first.select_provider("m").name for _ in range(10)} == {"good"}
        eventually(lambda: {second.select_provider("m").name for _ in range(10)} == {"good"})
        found = health(first, "bad")
        assert 19_000 < found.cooldown_ms <= 20_000
        assert (found.circuit_state, found.consecutive_successes, found.samples) == ("closed", 1, 1)
        assert metric(first, "requests_total", provider="bad", outcome="success") == 1

    def test_by_hand(self, bad_and_good):
        """And it is over when it is over."""
        replica = bad_and_good()
        replica.record_result("bad", success=True, latency_ms=5.0, cooldown=0.3)
        assert {replica.select_provider("m").name for _ in range(10)} == {"good"}
        assert health(replica, "bad").cooldown_ms == 300
        eventually(lambda: "bad" in {replica.select_provider("m").name for _ in range(10)})


class TestByHand:
    def test_a_rate_limit_holds_for_the_fleet(self, bad_and_good):
        """Without an attempt: outcome and cooldown."""
        first, second = bad_and_good(), bad_and_good()
        first.record_result("bad", outcome="rate_limited", cooldown=20.0)
        assert {first.select_provider("m").name for _ in range(10)} == {"good"}
        eventually(lambda: {second.select_provider("m").name for _ in range(10)} == {"good"})
        found = health(first, "bad")
        assert (found.circuit_state, found.consecutive_failures) == ("closed", 0)
        assert 19_000 < found.cooldown_ms <= 20_000
        assert metric(first, "requests_total", provider="bad", outcome="rate_limited") == 1

    def test_what_says_nothing_is_only_counted(self, bad_and_good):
        """No average moves."""
        replica = bad_and_good()
        replica.record_result("bad", outcome="ignored")
        found = health(replica, "bad")
        assert (found.latency_ms, found.last_result_ms) == (0.0, 0)
        assert metric(replica, "requests_total", provider="bad", outcome="ignored") == 1

    @pytest.mark.parametrize(
        ("said", "about"),
        [
            ({}, "success"),
            ({"success": True, "outcome": "success", "latency_ms": 1.0}, "success"),
            ({"outcome": "slow", "latency_ms": 1.0}, "unknown outcome 'slow': choose success, failure"),
            ({"success": True}, "latency_ms is missing"),
            ({"outcome": "failure"}, "latency_ms is missing"),
            ({"success": False, "latency_ms": 1.0, "cooldown": 3.0}, "cooldown is 3.0 for failure"),
            ({"outcome": "rate_limited", "cooldown": -1.0}, "cooldown"),
            ({"outcome": "rate_limited", "cooldown": float("nan")}, "cooldown"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, bad_and_good, said, about):
        """Before anything is stored."""
        replica = bad_and_good()
        with pytest.raises(InvalidArgument, match=about):
            replica.record_result("bad", **said)
        assert replica.flush()
        assert metric(replica, "requests_total", provider="bad", outcome="success") == 0


class TestItsOwnRateLimit:
    """What a replica was told holds at once here; the reply from Redis only confirms it."""

    @pytest.mark.parametrize("strategy", ["p2c", "latency", "round_robin", "weighted", "availability"])
    def test_the_next_call_goes_elsewhere(self, bad_and_good, strategy):
        """One after the other, without a pause for Redis; by every door."""
        replica = bad_and_good(strategy=strategy, flush_interval=5.0)
        with replica.attempt("m") as attempt:
            attempt.rate_limited(30.0)
        limited = attempt.provider.name
        for _ in range(20):
            assert replica.select_provider("m").name != limited
            assert replica.attempt("m").provider.name != limited
            assert limited not in [p.name for p in replica.get_fallback_providers("m")]
            for each in replica.attempts("m"):
                with each:
                    assert each.provider.name != limited

    def test_where_all_are_limited_it_says_until_when(self, bad_and_good):
        """Before Redis knows of any of it: this router was not even started."""
        replica = bad_and_good(only="good")
        replica.record_result("good", outcome="rate_limited", cooldown=30.0)
        with pytest.raises(NoProviderAvailable, match="cooling until") as caught:
            replica.select_provider("m")
        assert 29 < caught.value.retry_after <= 30

    def test_rather_the_limited_one_than_nobody(self, bad_and_good):
        """With `when_all_open="least_bad"`."""
        replica = bad_and_good(only="good", when_all_open="least_bad")
        replica.record_result("good", outcome="rate_limited", cooldown=30.0)
        assert replica.select_provider("m").name == "good"

    def test_an_operators_word_ends_it(self, bad_and_good):
        """Once Redis knows of the limit, its record is what counts."""
        replica = bad_and_good(only="good")
        replica.record_result("good", outcome="rate_limited", cooldown=30.0)
        assert replica.flush()
        replica.update_health("good", available=True)
        assert replica.select_provider("m").name == "good"


class TestAPaceIsKept:
    """A call in fifty seconds, as after a rate limit."""

    @pytest.fixture
    def paced(self, fleet, backend):
        """Two replicas that know of the pace, and have azure alone."""
        replicas = fleet()
        only(replicas[0], "azure")
        for replica in replicas:
            eventually(lambda replica=replica: not replica.get_health_status()["openai"].available)
        said = {"calls_per_s": "0.02", "paced_until_ms": str(round(time.time() + 300) * 1000)}
        backend.store("operator").update("azure", said, "operator")
        for replica in replicas:
            eventually(lambda replica=replica: replica.get_health_status()["azure"].calls_per_s == 0.02)
        return replicas

    def test_while_a_call_runs_nobody_makes_the_next_one(self, paced):
        """This replica knows at once, the other one a moment later; both say when it may be."""
        first, second = paced
        with first.attempt("gpt-4o"):
            with pytest.raises(NoProviderAvailable, match="cooling until") as caught:
                first.attempt("gpt-4o")
            assert 40 < caught.value.retry_after <= 50
            eventually(lambda: chosen(second, "gpt-4o") is None, "it is told before the call ends")
        assert chosen(first, "gpt-4o") is None, "its end changes nothing"
        assert first.flush()
        assert metric(first, "requests_total", provider="azure", outcome="success") == 1
        assert first.get_circuit_state("azure") == "closed"

    def test_a_request_does_not_wait_for_it_where_another_is_there(self, paced):
        """The pace holds for one provider."""
        first, _ = paced
        with first.attempt("gpt-4o"):
            first.update_health("openai", available=True)
            assert first.attempt("gpt-4o").provider.name == "openai"


class TestARateLimitThatNeverReachedRedis:
    def test_an_operators_word_ends_it_all_the_same(self, bad_and_good, backend, outage):
        """It was heard while Redis was away and is too old to be delivered."""
        replica, other = bad_and_good(only="good", result_ttl=0.1), bad_and_good(only="good")
        with outage():
            eventually(lambda: not replica.redis_up)
            replica.record_result("good", outcome="rate_limited", cooldown=300.0)
            eventually(lambda: metric(replica, "results_dropped_total", reason="expired") == 1)
        eventually(lambda: replica.redis_up and other.redis_up)
        assert backend.record("good").cooldown_until_ms == 0
        with pytest.raises(NoProviderAvailable, match="cooling"):
            replica.select_provider("m")
        other.update_health("good", available=True, weight=2.0)
        eventually(lambda: chosen(replica, "m"), "the operator's word is heard")

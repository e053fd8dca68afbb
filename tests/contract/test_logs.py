"""What the log says, and what a log handler may not spoil."""

import logging

import pytest

from redis_router import CircuitState, Provider
from tests.support import eventually
from tests.support.fleet import (
    NEVER,
    QUICK,
    log_handler,
)


class TestLogs:
    def test_a_failover_is_one_line(self, bad_and_good, caplog):
        """Who, why, which attempt, who is next; a thousand of them are not a thousand lines."""
        replica = bad_and_good(circuit=NEVER)
        with caplog.at_level(logging.INFO, "redis_router"):
            for _ in range(300):
                for attempt in replica.attempts("m"):
                    with attempt:
                        if attempt.provider.name == "bad":
                            raise OSError("no route")
        lines = [r for r in caplog.records if "is next" in r.message]
        assert 1 <= len(lines) < 100
        assert lines[0].levelname == "INFO"
        assert lines[0].message == "attempt 1 for model 'm' failed at bad (connection): good is next"

    def test_a_handler_that_raises_does_not_fail_the_request(self, bad_and_good):
        """The line is lost, not the answer."""

        def raises(record):
            raise RuntimeError("full disk")

        replica = bad_and_good(circuit=NEVER)
        with log_handler(raises, logging.INFO):
            for attempt in replica.attempts("m"):
                with attempt:
                    if attempt.provider.name == "bad":
                        raise OSError

    def test_who_caused_a_transition_says_so_aloud(self, bad_and_good, caplog):
        """Once at WARNING; whoever heard of it, at INFO; both say who it was."""
        first, second = bad_and_good(replica="gw-1"), bad_and_good(replica="gw-2")
        with caplog.at_level(logging.DEBUG, "redis_router"):
            for _ in range(QUICK.consecutive_failure_limit):
                first.record_result("bad", success=False, latency_ms=1.0, reason="http_503")
            assert first.flush()
            eventually(lambda: second.get_circuit_state("bad") is CircuitState.OPEN)
            eventually(lambda: sum("is open" in r.message for r in caplog.records) == 2)
        said = sorted((r.levelname, r.message) for r in caplog.records if "is open" in r.message)
        text = "bad is open (consecutive_failures), was closed; seen by gw-1"
        assert said == [("INFO", text), ("WARNING", text)]

    def test_a_cooldown_is_one_line(self, bad_and_good, caplog):
        """At INFO by whoever was told; the others whisper."""
        first, second = bad_and_good(replica="gw-1"), bad_and_good(replica="gw-2")
        with caplog.at_level(logging.DEBUG, "redis_router"):
            for _ in range(5):
                first.record_result("bad", outcome="rate_limited", cooldown=20.0)
            assert first.flush()
            eventually(lambda: second.get_health_status()["bad"].cooldown_until_ms > 0)
            eventually(lambda: sum("rate limited" in r.message for r in caplog.records) == 2)
        said = sorted((r.levelname, r.message) for r in caplog.records if "rate limited" in r.message)
        assert [level for level, _ in said] == ["DEBUG", "INFO"]
        assert all("bad is rate limited: no calls for " in text and "seen by gw-1" in text for _, text in said)

    @pytest.mark.parametrize("retries", [2, 0])
    def test_a_client_that_tries_again_by_itself_is_named(self, router, caplog, retries):
        """At registration, with the remedy."""

        class Client:
            max_retries = retries

        router().register_provider(Provider("openai", models=("m",), client=Client()))
        assert ("max_retries=0" in caplog.text) is bool(retries)

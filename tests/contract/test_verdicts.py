"""What becomes of a call: verdicts by hand, by the first token, by a classifier of one's own."""

import time

import pytest

from redis_router import InvalidArgument, Outcome, Verdict, classify
from tests.support import metric
from tests.support.fleet import Status, ask, health, only


class TestVerdicts:
    @pytest.mark.parametrize(
        ("said", "counted"),
        [
            (lambda attempt: attempt.fail("nonsense"), (1, "nonsense")),
            (lambda attempt: attempt.ignore(), (0, "")),
            (lambda attempt: attempt.classify(Status(503)), (1, "http_503")),
            (lambda attempt: attempt.classify(Status(404)), (0, "")),
        ],
    )
    def test_the_code_knows_better(self, fleet, said, counted):
        """A block that ends well, and a verdict that it gave."""
        replica, _ = fleet()
        only(replica, "azure")
        with replica.attempt("gpt-4o") as attempt:
            said(attempt)
        found = health(replica, "azure")
        assert (found.consecutive_failures, found.last_failure) == counted
        assert found.consecutive_successes == 0

    def test_an_error_that_is_none(self, fleet):
        """`succeed` before an exception of one's own; it is passed on, and no other provider is asked."""
        replica, _ = fleet()
        tried = []
        with pytest.raises(ValueError, match="mine"):
            ask(
                replica.attempts("gpt-4o"), ValueError("mine"), tried=tried, before=lambda a: a.succeed(latency_ms=70.0)
            )
        found = health(replica, tried[0].provider.name)
        assert (found.consecutive_successes, found.latency_ms) == (1, 70.0)

    def test_the_last_word_counts(self, fleet):
        """First judged, then known better."""
        replica, _ = fleet()
        only(replica, "azure")
        with replica.attempt("gpt-4o") as attempt:
            assert attempt.classify(Status(500)) == Verdict(Outcome.FAILURE, "http_500")
            attempt.succeed()
        assert health(replica, "azure").consecutive_successes == 1

    def test_the_first_token_is_what_counts(self, fleet):
        """A long answer is not a slow provider; its whole duration is in the metrics."""
        replica, _ = fleet()
        only(replica, "azure")
        with replica.attempt("gpt-4o") as attempt:
            attempt.first_token()
            time.sleep(0.1)  # the rest of the answer
            attempt.first_token()  # only the first one
        first = health(replica, "azure").latency_ms / 1000
        whole = metric(replica, "request_latency_seconds_sum", provider="azure")
        assert 0 < first <= whole - 0.1

    def test_a_classifier_of_ones_own(self, fleet):
        """It may give an outcome, a verdict, or leave it to ours; what it breaks counts as a failure."""

        def mine(said):
            if isinstance(said, KeyError):
                return Outcome.IGNORED
            if isinstance(said, LookupError):
                return Verdict(Outcome.FAILURE, "empty")
            if isinstance(said, ArithmeticError):
                raise TypeError("mine")
            return None

        replica, _ = fleet(classify=mine)
        only(replica, "azure")
        counted = []
        for error in (KeyError(), Status(404), IndexError(), ZeroDivisionError(), Status(502)):
            with pytest.raises(type(error)), replica.attempt("gpt-4o"):
                raise error
            counted.append(health(replica, "azure").last_failure)
            replica.record_result("azure", success=True, latency_ms=0)
        assert counted == ["", "", "empty", "error", "http_502"]

    @pytest.mark.parametrize(
        "call", [lambda a: a.fail("two words"), lambda a: a.rate_limited(-1), lambda a: a.succeed(-1)]
    )
    def test_bad_words_are_refused(self, fleet, call):
        """Before anything is stored."""
        attempt = fleet()[0].attempt("gpt-4o")
        with pytest.raises(InvalidArgument):
            call(attempt)

    def test_why_calls_fail_is_counted(self, fleet):
        """By reason, for operators: a key that was revoked looks like no outage."""
        replica, _ = fleet()
        only(replica, "azure")
        for error in (Status(401), Status(401), Status(500), OSError()):
            with pytest.raises(type(error)), replica.attempt("gpt-4o"):
                raise error
        replica.record_result("azure", success=False, latency_ms=1.0, reason="mine")
        replica.record_result("azure", success=False, latency_ms=1.0)
        assert replica.flush()
        counted = {
            reason: metric(replica, "failures_total", provider="azure", reason=reason)
            for reason in ("unauthorized", "http_500", "connection", "mine", "unspecified")
        }
        assert counted == {"unauthorized": 2, "http_500": 1, "connection": 1, "mine": 1, "unspecified": 1}


def test_classify_is_public():
    """For a classifier that adds a case to ours."""
    assert classify(Status(500)).outcome is Outcome.FAILURE

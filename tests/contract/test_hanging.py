"""Calls that hang: the fleet knows long before they time out."""

from contextlib import ExitStack

import pytest

from redis_router import Provider
from tests.support.fleet import health, metric
from tests.support.servers import eventually

QUICK, SLOW = Provider("quick", models=("m",)), Provider("slow", models=("m",))


@pytest.fixture
def replicas(router):
    """Two that know both providers: one usually answers at once, the other one hardly later."""
    made = [router() for _ in range(2)]
    for replica in made:
        for provider in (QUICK, SLOW):
            replica.register_provider(provider)
        replica.start()
    for replica in made:  # the second one last of all: it knows what the first one told
        for _ in range(10):
            for provider, latency_ms in ((QUICK, 10.0), (SLOW, 15.0)):
                others = [each.name for each in (QUICK, SLOW) if each is not provider]
                with replica.attempt("m", exclude=others) as attempt:
                    attempt.succeed(latency_ms)
            assert replica.flush()
    return made


def chosen(replica, times=20):
    """Whom so many calls would go to, looks at idle ones aside."""
    found = [replica.select_provider("m").name for _ in range(times)]
    return max(set(found), key=found.count)


class TestHanging:
    def test_the_others_leave_it_before_any_call_timed_out(self, replicas):
        """There is room for more, and nothing was recorded: what tells is how long a call has been under way."""
        one, other = replicas
        eventually(lambda: chosen(other) == "quick", "the quicker one is chosen")
        with one.attempt("m", exclude=["slow"]):
            eventually(lambda: chosen(other) == "slow", "the other replica goes elsewhere")
            found = other.get_health_status()["quick"]
            failed = one.get_health_status()["quick"].failure_rate
            eventually(lambda: metric(other, "calls_overdue", provider="quick") == 1, "the metrics show it")
        eventually(lambda: one.flush() and other.get_health_status()["quick"].overdue == 0, "it is not overdue")
        assert (found.in_flight, found.overdue, found.circuit_state, failed) == (1, 1, "closed", 0.0)
        assert health(one, "quick").circuit_state == "closed"

    @pytest.mark.parametrize("is_stream", [False, True])
    def test_several_that_wait_together_are_overdue_sooner(self, replicas, is_stream):
        """Where one answer of many took a minute, a single call is waited for, and so are all once one is answered."""
        one, other = replicas
        with one.attempt("m", exclude=["slow"]) as attempt:
            attempt.succeed(60_000.0)
        with ExitStack() as running:
            for _ in range(3):
                running.enter_context(one.attempt("m", exclude=["slow"]))
            eventually(lambda: other.get_health_status()["quick"].overdue == 3, "all three are overdue")
            answered = running.enter_context(one.attempt("m", exclude=["slow"]))
            if is_stream:
                answered.first_token()
            else:
                answered.__exit__(None, None, None)
            eventually(lambda: other.get_health_status()["quick"].overdue == 0, "the provider answers")
            running.pop_all()

    def test_a_stream_that_has_begun_is_not_overdue(self, replicas):
        """However long it lasts: its answer was not waited for."""
        one, other = replicas
        with ExitStack() as running:
            for _ in range(6):
                attempt = running.enter_context(one.attempt("m", exclude=["slow"]))
                attempt.first_token()
            running.enter_context(one.attempt("m", exclude=["quick"]))
            eventually(lambda: other.get_health_status()["slow"].overdue == 1, "the one that waits is overdue")
            eventually(lambda: other.get_health_status()["quick"].in_flight == 6, "all streams are known")
            overdue = other.get_health_status()["quick"].overdue
        assert overdue == 0

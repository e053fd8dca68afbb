"""What the fleet knows of a provider's load and limit, on every backend: calls in flight, overload, rate limits."""

import math

import pytest

from redis_router import CircuitConfig, CircuitState, Outcome
from redis_router.circuit.outcome import GONE, Result, UnderWay
from redis_router.store.contract import Batch
from tests.contract.records import OPENAI

START = 1_700_000_000_000
CONFIG = CircuitConfig(consecutive_failure_limit=3)


class Replica:
    """A store at moments of the test's, with batches numbered as they come."""

    def __init__(self, store) -> None:
        self.store, self.seq = store, 0
        store.now_ms = START
        store.register(OPENAI, CONFIG)

    def says(self, seconds, *results, in_flight=0, overdue=0, answering=0):
        self.seq += 1
        self.store.now_ms = START + round(seconds * 1000)
        (reply,) = self.store.record([Batch("openai", self.seq, results, UnderWay(in_flight, overdue, answering))])
        return reply.health


@pytest.fixture
def replica(backend):
    return lambda writer: Replica(backend.store(writer))


def answered(load, latency_ms=500.0):
    return Result("openai", Outcome.SUCCESS, latency_ms, 1, load=load)


def timed_out(load):
    return Result("openai", Outcome.FAILURE, 0.0, 1, reason="timeout", load=load)


class TestInFlight:
    def test_it_is_the_sum_of_what_each_said_last(self, replica):
        """However often, and in whatever order."""
        one, other = replica("one"), replica("other")
        assert one.says(0, in_flight=5).in_flight == 5
        assert other.says(1, in_flight=3).in_flight == 8
        assert one.says(2, in_flight=1).in_flight == 4
        assert other.says(3).in_flight == 1

    def test_the_calls_of_the_dead_go(self, replica):
        """A minute after their last word, with the next sum; those of one that goes on saying so stay."""
        dead, alive = replica("dead"), replica("alive")
        dead.says(0, in_flight=12)
        for seconds in range(0, 100, 10):
            health = alive.says(seconds, in_flight=2)
        assert health.in_flight == 2

    def test_who_leaves_takes_its_calls_and_its_word_along(self, replica):
        """Then the next one is alone with it, and its word is enough."""
        leaving, other = replica("leaving"), replica("other")
        other.store.update("openai", {"min_reporters": "2"})
        leaving.says(0, answered(1), in_flight=4)
        failures = [Result("openai", Outcome.FAILURE, 10.0, 1)] * 3
        assert other.says(1, *failures).circuit_state is CircuitState.CLOSED
        assert leaving.says(2, in_flight=GONE.calls).in_flight == 0
        assert other.says(3, *failures).circuit_state is CircuitState.OPEN

    def test_so_is_what_of_them_is_overdue(self, replica):
        """It goes with the call that was, and with the replica that said so."""
        one, other = replica("one"), replica("other")
        assert one.says(0, in_flight=5, overdue=2).overdue == 2
        assert other.says(1, in_flight=3, overdue=3).overdue == 5
        assert one.says(2, in_flight=5, overdue=1).overdue == 4
        assert one.says(3, in_flight=1).overdue == 3
        for seconds in range(10, 110, 10):
            health = one.says(seconds, in_flight=1)
        assert (health.in_flight, health.overdue) == (1, 0)

    def test_so_is_of_how_many_the_answer_has_begun(self, replica):
        """The same sum, and the same end: those of who died or left are not counted."""
        one, other = replica("one"), replica("other")
        assert one.says(0, in_flight=5, answering=2).answering == 2
        assert other.says(1, in_flight=3, answering=3).answering == 5
        assert one.says(2, in_flight=5, answering=1).answering == 4
        assert one.says(3, in_flight=5, answering=0).answering == 3
        assert one.says(100, in_flight=1, answering=1).answering == 1

    def test_nothing_is_counted_twice_where_a_batch_is_sent_twice(self, replica):
        """As with its results."""
        one = replica("one")
        one.says(0, in_flight=5)
        one.seq -= 1
        assert one.says(1, in_flight=5).in_flight == 5


class TestLimit:
    def test_it_grows_while_answers_stay_quick_and_is_cut_where_they_wait(self, replica):
        """At first by leaps; the wait, by Little's law, says how many are served."""
        one = replica("one")
        for load in range(1, 21):
            health = one.says(load, answered(load), answered(load))
        assert health.concurrency_limit >= 20
        for seconds in range(30, 60):
            health = one.says(seconds, answered(30, 2_000.0))
        assert 1 <= health.concurrency_limit < 15

    def test_after_a_cut_only_a_call_that_fills_it_makes_it_grow(self, replica):
        """A quick answer with room to spare says nothing of one call more."""
        one = replica("one")
        one.says(0, *[answered(load) for load in range(1, 21)])
        one.says(30, *[answered(20, 2_000.0)] * 30)
        limit = one.says(60, *[answered(1)] * 30).concurrency_limit
        full = math.floor(limit)
        assert 2 < full < 15
        assert one.says(61, *[answered(full - 1)] * 60).concurrency_limit == limit
        assert one.says(62, answered(full)).concurrency_limit > limit

    def test_streams_under_way_are_in_service(self, replica):
        """Each replica took its call for the only one: what is being answered says more, whoever answers next."""
        begun = Result("openai", Outcome.BEGUN, 500.0, -1, load=1.0)
        several = [replica(name) for name in ("a", "b", "c", "d", "e", "f")]
        for each in several:
            health = each.says(1, begun, in_flight=1, answering=1)
        assert (health.in_flight, health.answering, health.concurrency_limit) == (6, 6, 7.5)
        late = Result("openai", Outcome.BEGUN, 5_000.0, -1, load=6.0)
        for seconds in range(2, 40):
            health = several[0].says(seconds, late, in_flight=1, answering=1)
        assert health.concurrency_limit == 6, "calls wait, and six are answered"

    def test_it_is_forgotten_where_nobody_says_what_is_under_way(self, replica):
        """A fleet that only records results keeps within no limit."""
        one = replica("one")
        assert one.says(0, answered(4)).concurrency_limit > 0
        assert one.says(1, *[answered(0)] * 60).concurrency_limit == 0

    def test_a_rate_limit_lowers_it_once_for_many_refusals(self, replica):
        """All that were under way at the same load say the same."""
        one = replica("one")
        one.says(0, *[answered(load) for load in range(1, 11)])
        refused = Result("openai", Outcome.RATE_LIMITED, 0.0, 1, cooldown_ms=1_000.0, load=10.0)
        assert one.says(1, *[refused] * 10).concurrency_limit == 7


def refused(load, seconds=10):
    return Result("openai", Outcome.RATE_LIMITED, 0.0, 1, cooldown_ms=seconds * 1000, load=load)


class TestPace:
    """Calls a second, for a while after a rate limit."""

    @pytest.fixture
    def one(self, replica):
        """Two calls of two seconds under way: one a second. The second was refused: so two a second, and a pause."""
        one = replica("one")
        one.says(0, *[Result("openai", Outcome.SUCCESS, 500.0, 1, "", "", 2000.0, load=1.0)] * 4)
        assert round(one.says(30, refused(2)).calls_per_s, 3) == 2.0
        return one

    @staticmethod
    def paced(ms=500.0):
        return Result("openai", Outcome.PACED, 0.0, 0, cooldown_ms=ms)

    def test_a_call_that_begins_keeps_the_next_one_back(self, one):
        """For everybody, as long as the pace holds."""
        before = one.says(41, in_flight=1)
        assert before.cooling_for_ms(START + 41_000) == 0, "the provider's own pause is over"
        health = one.says(42, self.paced())
        assert health.cooling_for_ms(START + 42_100) == 400
        assert (health.failure_rate, health.answers_per_s) == (before.failure_rate, before.answers_per_s)

    def test_it_alone_keeps_within_the_rate(self, one):
        """The limit of calls at once stays: a stream lasts long, and many of them at once are few a second."""
        before = one.says(31, *[Result("openai", Outcome.BEGUN, 500.0, -1, load=load) for load in range(1, 6)])
        after = one.says(40, refused(3))
        assert after.calls_per_s > 0
        assert after.concurrency_limit == before.concurrency_limit > 3

    def test_each_rate_limit_slows_it_down_and_each_answer_makes_it_faster(self, one):
        """Of many that are refused at once, the first says it all."""
        health = one.says(42, self.paced(), refused(2), refused(3), refused(4))
        assert round(health.calls_per_s, 3) == 1.7
        assert health.cooling_for_ms(START + 42_000) == 10_000
        assert round(one.says(53, answered(1), answered(1)).calls_per_s, 3) == 1.71

    def test_it_ends_a_while_after_the_last_rate_limit(self, one):
        """Five times the pause that was asked for after it: from then on the next call waits for nobody."""
        assert one.says(89, answered(1)).calls_per_s > 0
        health = one.says(90, self.paced())
        assert (health.calls_per_s, health.cooling_for_ms(START + 90_000)) == (0, 0)

    def test_so_it_does_where_it_is_fast(self, one):
        """Replicas could not hear of each other's calls in time."""
        assert one.says(45, *[answered(1)] * 1000).calls_per_s == 0

    def test_many_calls_a_second_are_not_paced(self, replica):
        """Their limit is one of calls at once."""
        one = replica("one")
        one.says(0, *[answered(load) for load in range(1, 11)])
        health = one.says(1, refused(10))
        assert (health.calls_per_s, health.concurrency_limit) == (0, 7)

    def test_one_call_in_each_pause_is_the_least(self, one):
        """Who asks for ten seconds takes a call after them."""
        for seconds in range(50, 800, 15):
            health = one.says(seconds, refused(1))
        assert health.calls_per_s == 0.1

    def test_an_operators_word_ends_it(self, one):
        """Back in service means now."""
        one.store.update("openai", {"available": "1"}, "operator")
        health = one.says(42, self.paced())
        assert (health.calls_per_s, health.cooling_for_ms(START + 42_000)) == (0, 0)


class TestOverload:
    def test_a_time_out_above_the_limit_is_no_failure(self, replica):
        """While the provider answers others: the limit shrinks instead."""
        one = replica("one")
        before = one.says(0, answered(1), answered(2))
        health = one.says(1, *[timed_out(30)] * 5, answered(2))
        assert (health.circuit_state, health.failure_rate) == (CircuitState.CLOSED, 0.0)
        assert health.concurrency_limit < before.concurrency_limit

    def test_below_it_it_is_one(self, replica):
        """A provider that is dead fails these, too."""
        one = replica("one")
        one.says(0, *[answered(load) for load in range(1, 11)])
        assert one.says(1, *[timed_out(2)] * 3).circuit_state is CircuitState.OPEN

    def test_a_provider_that_answers_nobody_is_not_merely_full(self, replica):
        """However many calls are under way: once nothing came back for a while, time-outs count."""
        one = replica("one")
        one.says(0, answered(1), answered(2))
        assert one.says(20, *[timed_out(30)] * 3).circuit_state is CircuitState.OPEN

    def test_the_limit_stays_at_what_is_answered(self, replica):
        """A crowd of three times as many for a minute, of which two in three time out: five calls are in service."""
        one = replica("one")
        one.says(0, *[answered(1)] * 20)
        for second in range(1, 61):
            results = [timed_out(60)] * 20 + [answered(60, 6000.0)] * 10
            health = one.says(second, *results, in_flight=60)
        assert health.circuit_state is CircuitState.CLOSED
        assert health.call_ms < 1000, "waiting is not service"
        assert 4 < health.concurrency_limit < 8, "ten answers a second, each half a second"

    def test_in_half_open_every_time_out_counts(self, replica):
        """Calls that hang since before are no excuse for a trial call."""
        one = replica("one")
        one.says(0, answered(1))
        health = one.says(1, *[Result("openai", Outcome.FAILURE, 10.0, 1)] * 3)
        one.store.now_ms = START + 40_000
        health = one.store.half_open("openai").health
        assert one.says(41, timed_out(30)._replace(generation=health.generation)).circuit_state is CircuitState.OPEN

"""What a hang counts for, and how a deadline is shared."""

import asyncio
import time

import pytest

from redis_router import CircuitState, InvalidArgument
from tests.support import metric
from tests.support.fleet import NEVER, QUICK, health


class Hanging:
    """A client of one provider that accepts and never answers, and one that is well. Real time passes."""

    def __init__(self, hangs="bad"):
        self.hangs = hangs
        self.tried = []
        self.waits = []

    def call(self, attempt, timeout):
        name = attempt.provider.name
        self.tried.append(name)
        if name == self.hangs:
            self.waits.append(timeout)
            time.sleep(timeout)  # the call
            raise TimeoutError("read timed out")

    async def acall(self, attempt):
        self.tried.append(attempt.provider.name)
        if attempt.provider.name == self.hangs:
            self.waits.append(attempt.timeout)
            async with asyncio.timeout(attempt.timeout):
                await asyncio.sleep(60)  # the call


def run(attempts, call):
    """Enter each attempt and make the call in it."""
    for attempt in attempts:
        with attempt:
            call(attempt)


def impatient(attempt):
    """The client gives up after a moment."""
    time.sleep(0.01)  # the call
    raise TimeoutError("read timed out")


class TestAHang:
    @pytest.mark.parametrize("strategy", ["round_robin", "p2c", "latency", "weighted"])
    def test_only_the_tripping_calls_are_slow_and_no_request_fails(self, bad_and_good, strategy):
        """One of two providers hangs; the deadline leaves time for the other one."""
        replica, client = bad_and_good(strategy=strategy), Hanging()
        for _ in range(40):
            for attempt in replica.attempts("m", deadline=0.4):
                with attempt:
                    client.call(attempt, attempt.timeout)
            replica.flush()
        assert len(client.waits) <= QUICK.consecutive_failure_limit
        assert all(0 < wait <= 0.2 for wait in client.waits)
        if strategy in ("round_robin", "weighted"):
            assert health(replica, "bad").circuit_state is CircuitState.OPEN
            assert health(replica, "bad").last_failure == "timeout"

    def test_who_gives_it_all_the_time_there_is_learns_of_it_as_well(self, bad_and_good):
        """`timeout=attempt.remaining`: the request fails, but it counts, so that the circuit opens."""
        replica, client = bad_and_good(only="bad"), Hanging()
        for _ in range(QUICK.consecutive_failure_limit):
            with pytest.raises(TimeoutError):
                run(replica.attempts("m", deadline=0.1), lambda attempt: client.call(attempt, attempt.remaining))
        assert health(replica, "bad").circuit_state is CircuitState.OPEN
        assert metric(replica, "failures_total", provider="bad", reason="timeout") == 3

    def test_asyncio_timeout_inside_the_block_is_the_same(self, bad_and_good):
        """The share was used up: a failure, and the next one answers."""
        replica, client = bad_and_good(), Hanging()

        async def requests():
            for _ in range(20):
                async for attempt in replica.attempts("m", deadline=0.4):
                    with attempt:
                        await client.acall(attempt)
                await asyncio.to_thread(replica.flush)

        asyncio.run(requests())
        assert len(client.waits) == QUICK.consecutive_failure_limit
        assert health(replica, "bad").circuit_state is CircuitState.OPEN

    def test_whoever_gave_it_less_is_ignored(self, bad_and_good):
        """A caller's own impatience is no failure, and is passed on."""
        replica = bad_and_good(only="bad")

        async def request():
            async for attempt in replica.attempts("m", deadline=20.0):
                with attempt:
                    async with asyncio.timeout(0.02):
                        await asyncio.sleep(60)  # the call

        with pytest.raises(TimeoutError):
            asyncio.run(request())
        assert health(replica, "bad").failure_rate == 0.0
        assert metric(replica, "requests_total", provider="bad", outcome="ignored") == 1

    def test_a_clients_time_out_counts_unless_calls_usually_take_longer(self, bad_and_good):
        """A client with 10 s of its own, and a deadline of 60: its hang is a failure. One with 10 ms is impatient."""
        replica = bad_and_good(only="bad")
        with pytest.raises(TimeoutError):
            run(replica.attempts("m", deadline=20.0), impatient)
        assert health(replica, "bad").last_failure == "timeout"
        replica.record_result("bad", success=True, latency_ms=8_000.0)
        before = health(replica, "bad")
        for attempts in (replica.attempts("m", deadline=20.0), [replica.attempt("m")]):
            with pytest.raises(TimeoutError):
                run(attempts, impatient)
        assert health(replica, "bad").consecutive_failures == before.consecutive_failures == 0

    def test_answers_that_take_a_little_longer_than_the_share_hide_no_hang(self, bad_and_good):
        """Their average is above it; the hang opens the circuit all the same, and does not move the average."""
        replica, client = bad_and_good(), Hanging()
        for name in ("bad", "good"):
            replica.record_result(name, success=True, latency_ms=120.0)
        replica.flush()
        for _ in range(10):
            run(replica.attempts("m", deadline=0.2), lambda attempt: client.call(attempt, attempt.timeout))
            replica.flush()
        assert len(client.waits) == QUICK.consecutive_failure_limit
        found = health(replica, "bad")
        assert (found.circuit_state, found.latency_ms) == (CircuitState.OPEN, 120.0)

    def test_a_time_out_that_does_not_count_goes_to_the_next(self, bad_and_good):
        """An impatient client: nobody is blamed, and the request is answered."""
        replica, client = bad_and_good(circuit=NEVER), Hanging()
        for name in ("bad", "good"):
            replica.record_result(name, success=True, latency_ms=3_000.0)
        replica.flush()
        for _ in range(4):
            run(replica.attempts("m", deadline=20.0), lambda attempt: client.call(attempt, 0.01))
        assert client.waits
        assert health(replica, "bad").failure_rate == 0.0

    def test_a_share_that_is_too_short_for_anybody_blames_nobody(self, bad_and_good):
        """The deadline is shorter than calls take: the next one is tried, and no circuit learns of it."""
        replica = bad_and_good(circuit=NEVER)
        for name in ("bad", "good"):
            replica.record_result(name, success=True, latency_ms=3_000.0)
        replica.flush()
        tried = []

        def call(attempt):
            tried.append(attempt.provider.name)
            time.sleep(attempt.timeout)  # the call
            raise TimeoutError("read timed out")

        with pytest.raises(TimeoutError):
            run(replica.attempts("m", deadline=0.1), call)
        assert sorted(tried) == ["bad", "good"]
        assert health(replica, "bad").failure_rate == health(replica, "good").failure_rate == 0.0


class TestTimeouts:
    def test_half_of_what_is_left_while_another_may_follow(self, bad_and_good):
        """And all of it for the last one; it counts down."""
        replica = bad_and_good(circuit=NEVER)
        seen = []

        def call(attempt):
            seen.append(attempt.timeout)
            assert attempt.timeout <= attempt.remaining
            raise OSError("down")

        def watched():
            for attempt in replica.attempts("m", deadline=10.0):
                seen.append(attempt.timeout)
                yield attempt

        with pytest.raises(OSError, match="down"):
            run(watched(), call)
        assert [round(seconds) for seconds in seen] == [5, 5, 10, 10]

    @pytest.mark.parametrize(("options", "only"), [({"max_attempts": 1}, None), ({}, "good")])
    def test_all_of_it_where_nobody_follows(self, bad_and_good, options, only):
        """One attempt at most, or one provider."""
        for attempt in bad_and_good(only=only).attempts("m", deadline=10.0, **options):
            with attempt:
                assert 9 < attempt.timeout <= 10

    def test_a_provider_that_is_out_does_not_follow(self, bad_and_good):
        """Its circuit is open: the other one has all the time."""
        replica = bad_and_good()
        replica.update_health("bad", available=False)
        for attempt in replica.attempts("m", deadline=10.0):
            with attempt:
                assert 9 < attempt.timeout <= 10

    @pytest.mark.parametrize(
        ("options", "first", "then"),
        [
            ({"attempt_timeout": 3.0}, 3, 3),
            ({"first_token_timeout": 2.0}, 2, None),
            ({"attempt_timeout": 6.0, "first_token_timeout": 2.0}, 2, 6),
            ({"deadline": 10.0, "attempt_timeout": 6.0}, 6, 6),
            ({"deadline": 4.0, "attempt_timeout": 6.0}, 4, 4),
            ({"deadline": 10.0, "first_token_timeout": 2.0}, 2, 10),
            ({"deadline": 10.0}, 5, 10),
            ({}, None, None),
        ],
    )
    def test_until_the_first_token_and_after_it(self, bad_and_good, options, first, then):
        """Once it answers nobody follows, so that it has what is left."""
        for attempt in bad_and_good().attempts("m", **options):
            with attempt:
                assert attempt.timeout == (first and pytest.approx(first, abs=0.5))
                attempt.first_token()
                assert attempt.timeout == (then and pytest.approx(then, abs=0.5))

    def test_a_single_attempt_has_none(self, bad_and_good):
        """Nothing bounds it."""
        with bad_and_good().attempt("m") as attempt:
            assert (attempt.timeout, attempt.remaining) == (None, None)

    def test_the_time_out_of_an_attempt_counts_and_the_next_is_tried(self, bad_and_good):
        """`attempt_timeout`, without a deadline."""
        replica, client = bad_and_good(), Hanging()
        for _ in range(10):
            for attempt in replica.attempts("m", attempt_timeout=0.05):
                with attempt:
                    client.call(attempt, attempt.timeout)
            replica.flush()
        assert len(client.waits) == QUICK.consecutive_failure_limit

    @pytest.mark.parametrize("option", ["attempt_timeout", "first_token_timeout"])
    @pytest.mark.parametrize("value", [0, -1.0, float("nan"), "1", True])
    def test_bad_ones_are_refused_at_once(self, bad_and_good, option, value):
        """Before the first attempt, and by name."""
        with pytest.raises(InvalidArgument, match=option):
            bad_and_good().attempts("m", **{option: value})

"""Time: what a hang counts for, how a deadline is shared, and that an answer that began is nobody else's to finish."""

import asyncio
import logging
import time

import pytest

from redis_router import CircuitConfig, CircuitState, InvalidArgument, NoProviderAvailable, Provider
from tests.contract.test_router import QUICK
from tests.support import eventually, metric

NEVER = CircuitConfig(consecutive_failure_limit=100, failure_rate_threshold=1.0)


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
            time.sleep(timeout)
            raise TimeoutError("read timed out")

    async def acall(self, attempt):
        self.tried.append(attempt.provider.name)
        if attempt.provider.name == self.hangs:
            self.waits.append(attempt.timeout)
            async with asyncio.timeout(attempt.timeout):
                await asyncio.sleep(60)


@pytest.fixture
def pair(router):
    """A replica that knows "bad" and "good"; `only` leaves one of them."""

    def make(*, only=None, **options):
        replica = router(**{"circuit": QUICK, "strategy": "round_robin", **options})
        for name in ("bad", "good"):
            if only in (None, name):
                replica.register_provider(Provider(name, models=("m",)))
        replica.start()
        return replica

    return make


def run(attempts, call):
    """Enter each attempt and make the call in it."""
    for attempt in attempts:
        with attempt:
            call(attempt)


def impatient(attempt):
    """The client gives up after a moment."""
    time.sleep(0.01)
    raise TimeoutError("read timed out")


def health(replica, name):
    assert replica.flush()
    return replica.get_health_status()[name]


class TestAHang:
    @pytest.mark.parametrize("strategy", ["round_robin", "p2c", "latency", "weighted"])
    def test_only_the_tripping_calls_are_slow_and_no_request_fails(self, pair, strategy):
        """One of two providers hangs; the deadline leaves time for the other one."""
        replica, client = pair(strategy=strategy), Hanging()
        for _ in range(40):
            for attempt in replica.attempts("m", deadline=0.4):
                with attempt:
                    client.call(attempt, attempt.timeout)
            replica.flush()
        assert len(client.waits) <= QUICK.consecutive_failure_limit
        assert all(0.15 < wait <= 0.2 for wait in client.waits)
        if strategy in ("round_robin", "weighted"):
            assert health(replica, "bad").circuit_state is CircuitState.OPEN
            assert health(replica, "bad").last_failure == "timeout"

    def test_who_gives_it_all_the_time_there_is_learns_of_it_as_well(self, pair):
        """`timeout=attempt.remaining`: the request fails, but it counts, so that the circuit opens."""
        replica, client = pair(only="bad"), Hanging()
        for _ in range(QUICK.consecutive_failure_limit):
            with pytest.raises(TimeoutError):
                run(replica.attempts("m", deadline=0.1), lambda attempt: client.call(attempt, attempt.remaining))
        assert health(replica, "bad").circuit_state is CircuitState.OPEN
        assert metric(replica._registry, "failures_total", provider="bad", reason="timeout") == 3

    def test_asyncio_timeout_inside_the_block_is_the_same(self, pair):
        """The share was used up: a failure, and the next one answers."""
        replica, client = pair(), Hanging()

        async def requests():
            for _ in range(20):
                async for attempt in replica.attempts("m", deadline=0.4):
                    with attempt:
                        await client.acall(attempt)
                await asyncio.to_thread(replica.flush)

        asyncio.run(requests())
        assert len(client.waits) == QUICK.consecutive_failure_limit
        assert health(replica, "bad").circuit_state is CircuitState.OPEN

    def test_whoever_gave_it_less_is_ignored(self, pair):
        """A caller's own impatience is no failure, and is passed on."""
        replica = pair(only="bad")

        async def request():
            async for attempt in replica.attempts("m", deadline=20.0):
                with attempt:
                    async with asyncio.timeout(0.02):
                        await asyncio.sleep(60)

        with pytest.raises(TimeoutError):
            asyncio.run(request())
        assert health(replica, "bad").failure_rate == 0.0
        assert metric(replica._registry, "requests_total", provider="bad", outcome="ignored") == 1

    def test_a_clients_time_out_counts_unless_calls_usually_take_longer(self, pair):
        """A client with 10 s of its own, and a deadline of 60: its hang is a failure. One with 10 ms is impatient."""
        replica = pair(only="bad")
        with pytest.raises(TimeoutError):
            run(replica.attempts("m", deadline=20.0), impatient)
        assert health(replica, "bad").last_failure == "timeout"
        replica.record_result("bad", success=True, latency_ms=8_000.0)
        before = health(replica, "bad")
        for attempts in (replica.attempts("m", deadline=20.0), [replica.attempt("m")]):
            with pytest.raises(TimeoutError):
                run(attempts, impatient)
        assert health(replica, "bad").consecutive_failures == before.consecutive_failures == 0

    def test_answers_that_take_a_little_longer_than_the_share_hide_no_hang(self, pair):
        """Their average is above it; the hang opens the circuit all the same, and does not move the average."""
        replica, client = pair(), Hanging()
        for name in ("bad", "good"):
            replica.record_result(name, success=True, latency_ms=120.0)
        replica.flush()
        for _ in range(10):
            run(replica.attempts("m", deadline=0.2), lambda attempt: client.call(attempt, attempt.timeout))
            replica.flush()
        assert len(client.waits) == QUICK.consecutive_failure_limit
        found = health(replica, "bad")
        assert (found.circuit_state, found.latency_ms) == (CircuitState.OPEN, 120.0)

    def test_a_time_out_that_does_not_count_goes_to_the_next(self, pair):
        """An impatient client: nobody is blamed, and the request is answered."""
        replica, client = pair(circuit=NEVER), Hanging()
        for name in ("bad", "good"):
            replica.record_result(name, success=True, latency_ms=3_000.0)
        replica.flush()
        for _ in range(4):
            run(replica.attempts("m", deadline=20.0), lambda attempt: client.call(attempt, 0.01))
        assert client.waits
        assert health(replica, "bad").failure_rate == 0.0

    def test_a_share_that_is_too_short_for_anybody_blames_nobody(self, pair):
        """The deadline is shorter than calls take: the next one is tried, and no circuit learns of it."""
        replica = pair(circuit=NEVER)
        for name in ("bad", "good"):
            replica.record_result(name, success=True, latency_ms=3_000.0)
        replica.flush()
        tried = []

        def call(attempt):
            tried.append(attempt.provider.name)
            time.sleep(attempt.timeout)
            raise TimeoutError("read timed out")

        with pytest.raises(TimeoutError):
            run(replica.attempts("m", deadline=0.1), call)
        assert sorted(tried) == ["bad", "good"]
        assert health(replica, "bad").failure_rate == health(replica, "good").failure_rate == 0.0


class TestTimeouts:
    def test_half_of_what_is_left_while_another_may_follow(self, pair):
        """And all of it for the last one; it counts down."""
        replica = pair(circuit=NEVER)
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
    def test_all_of_it_where_nobody_follows(self, pair, options, only):
        """One attempt at most, or one provider."""
        for attempt in pair(only=only).attempts("m", deadline=10.0, **options):
            with attempt:
                assert 9 < attempt.timeout <= 10

    def test_a_provider_that_is_out_does_not_follow(self, pair):
        """Its circuit is open: the other one has all the time."""
        replica = pair()
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
    def test_until_the_first_token_and_after_it(self, pair, options, first, then):
        """Once it answers nobody follows, so that it has what is left."""
        for attempt in pair().attempts("m", **options):
            with attempt:
                assert attempt.timeout == (first and pytest.approx(first, abs=0.5))
                attempt.first_token()
                assert attempt.timeout == (then and pytest.approx(then, abs=0.5))

    def test_a_single_attempt_has_none(self, pair):
        """Nothing bounds it."""
        with pair().attempt("m") as attempt:
            assert (attempt.timeout, attempt.remaining) == (None, None)

    def test_the_time_out_of_an_attempt_counts_and_the_next_is_tried(self, pair):
        """`attempt_timeout`, without a deadline."""
        replica, client = pair(), Hanging()
        for _ in range(10):
            for attempt in replica.attempts("m", attempt_timeout=0.05):
                with attempt:
                    client.call(attempt, attempt.timeout)
            replica.flush()
        assert len(client.waits) == QUICK.consecutive_failure_limit

    @pytest.mark.parametrize("option", ["attempt_timeout", "first_token_timeout"])
    @pytest.mark.parametrize("value", [0, -1.0, float("nan"), "1", True])
    def test_bad_ones_are_refused_at_once(self, pair, option, value):
        """Before the first attempt, and by name."""
        with pytest.raises(InvalidArgument, match=option):
            pair().attempts("m", **{option: value})


class TestStreams:
    def stream(self, replica, error, **options):
        """The parts that reach the user, and what the generator raised."""
        parts = []
        try:
            for attempt in replica.attempts("m", **options):
                with attempt:
                    for part in ("The answer", " is "):
                        attempt.first_token()
                        parts.append(part)
                    raise error
        except Exception as caught:
            return parts, caught
        return parts, None

    @pytest.mark.parametrize("error", [OSError("cut"), TimeoutError("read timed out")])
    def test_an_answer_that_began_is_not_continued_by_another(self, pair, error):
        """The failure is counted, the error passed on."""
        replica = pair(circuit=NEVER)
        parts, caught = self.stream(replica, error, deadline=20.0)
        assert parts == ["The answer", " is "]
        assert caught is error
        replica.flush()
        assert sorted(h.consecutive_failures for h in replica.get_health_status().values()) == [0, 1]

    def test_nor_where_the_code_says_that_it_failed(self, pair):
        """`fail` without an exception ends the loop."""
        replica = pair(circuit=NEVER)
        tried = []
        for attempt in replica.attempts("m"):
            with attempt:
                tried.append(attempt)
                attempt.first_token()
                attempt.fail("filtered")
        assert len(tried) == 1

    def test_before_its_first_token_another_one_answers(self, pair):
        """Nothing reached the user yet."""
        replica, tried = pair(circuit=NEVER), []
        for attempt in replica.attempts("m"):
            with attempt:
                tried.append(attempt.provider.name)
                if len(tried) == 1:
                    raise OSError("cut")
                attempt.first_token()
        assert len(tried) == 2

    def test_a_deadline_that_ends_an_answer_is_no_failure(self, pair):
        """It answered, only too long: `asyncio.timeout` for the rest of the stream."""
        replica = pair(only="good")

        async def request():
            async for attempt in replica.attempts("m", deadline=0.1):
                with attempt:
                    attempt.first_token()
                    async with asyncio.timeout(attempt.timeout):
                        await asyncio.sleep(60)

        with pytest.raises(TimeoutError):
            asyncio.run(request())
        assert health(replica, "good").failure_rate == 0.0


class TestExclude:
    def test_somebody_else_is_chosen(self, pair):
        """For a loop of one's own; names that nobody has are no matter."""
        replica = pair()
        for _ in range(6):
            assert replica.attempt("m", exclude=["bad", "nobody"]).provider.name == "good"

    def test_where_nobody_is_left_it_says_why(self, pair):
        """By name."""
        with pytest.raises(NoProviderAvailable) as caught:
            pair().attempt("m", exclude={"bad", "good"})
        assert caught.value.reasons == dict.fromkeys(("bad", "good"), "excluded by the caller")

    def test_all_parts_of_a_provider_are_meant(self, router):
        """With a circuit for each model, the provider's name will do."""
        replica = router()
        replica.register_provider(Provider("a", models=("m", "n"), circuit_per_model=True))
        replica.register_provider(Provider("b", models=("m",)))
        assert {replica.attempt("m", exclude=["a"]).provider.name for _ in range(10)} == {"b"}
        assert {replica.attempt("m", exclude=["a/m"]).provider.name for _ in range(10)} == {"b"}

    @pytest.mark.parametrize(
        "exclude", ["bad", b"bad", "", 3, None, False, [None], [["bad"]], [Provider("bad", ("m",))]]
    )
    def test_what_are_no_names_is_refused(self, pair, exclude):
        """Always, and not only when somebody is out."""
        with pytest.raises(InvalidArgument, match="exclude"):
            pair().attempt("m", exclude=exclude)


class TestByHand:
    def test_a_rate_limit_holds_for_the_fleet(self, pair):
        """Without an attempt: outcome and cooldown."""
        first, second = pair(), pair()
        first.record_result("bad", outcome="rate_limited", cooldown=20.0)
        assert {first.select_provider("m").name for _ in range(10)} == {"good"}
        eventually(lambda: {second.select_provider("m").name for _ in range(10)} == {"good"})
        found = health(first, "bad")
        assert (found.circuit_state, found.consecutive_failures) == ("closed", 0)
        assert 19_000 < found.cooldown_ms <= 20_000
        assert metric(first._registry, "requests_total", provider="bad", outcome="rate_limited") == 1

    def test_what_says_nothing_is_only_counted(self, pair):
        """No average moves."""
        replica = pair()
        replica.record_result("bad", outcome="ignored")
        found = health(replica, "bad")
        assert (found.latency_ms, found.last_result_ms) == (0.0, 0)
        assert metric(replica._registry, "requests_total", provider="bad", outcome="ignored") == 1

    @pytest.mark.parametrize(
        ("said", "about"),
        [
            ({}, "success"),
            ({"success": True, "outcome": "success", "latency_ms": 1.0}, "success"),
            ({"outcome": "slow", "latency_ms": 1.0}, "unknown outcome 'slow': choose success, failure"),
            ({"success": True}, "latency_ms is missing"),
            ({"outcome": "failure"}, "latency_ms is missing"),
            ({"success": False, "latency_ms": 1.0, "cooldown": 3.0}, "cooldown is 3.0 for a failure"),
            ({"outcome": "rate_limited", "cooldown": -1.0}, "cooldown"),
            ({"outcome": "rate_limited", "cooldown": float("nan")}, "cooldown"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, pair, said, about):
        """Before anything is stored."""
        replica = pair()
        with pytest.raises(InvalidArgument, match=about):
            replica.record_result("bad", **said)
        assert replica.flush()
        assert metric(replica._registry, "requests_total", provider="bad", outcome="success") == 0


class TestItsOwnRateLimit:
    """What a replica was told holds at once here; the reply from Redis only confirms it."""

    @pytest.mark.parametrize("strategy", ["p2c", "latency", "round_robin", "weighted", "availability"])
    def test_the_next_call_goes_elsewhere(self, pair, strategy):
        """One after the other, without a pause for Redis; by every door."""
        replica = pair(strategy=strategy, flush_interval=5.0)
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

    def test_where_all_are_limited_it_says_until_when(self, pair):
        """Before Redis knows of any of it: this router was not even started."""
        replica = pair(only="good")
        replica.record_result("good", outcome="rate_limited", cooldown=30.0)
        with pytest.raises(NoProviderAvailable, match="cooling until") as caught:
            replica.select_provider("m")
        assert 29 < caught.value.retry_after <= 30

    def test_rather_the_limited_one_than_nobody(self, pair):
        """With `when_all_open="least_bad"`."""
        replica = pair(only="good", when_all_open="least_bad")
        replica.record_result("good", outcome="rate_limited", cooldown=30.0)
        assert replica.select_provider("m").name == "good"

    def test_an_operators_word_ends_it(self, pair):
        """Once Redis knows of the limit, its record is what counts."""
        replica = pair(only="good")
        replica.record_result("good", outcome="rate_limited", cooldown=30.0)
        assert replica.flush()
        replica.update_health("good", available=True)
        assert replica.select_provider("m").name == "good"


class TestARateLimitThatNeverReachedRedis:
    def test_an_operators_word_ends_it_all_the_same(self, pair):
        """It was heard while Redis was away and is too old to be delivered."""
        replica, other = pair(only="good"), pair(only="good")
        candidate = replica._view.table.candidates["good"]
        candidate.here.limited_until = time.monotonic() + 300.0
        with pytest.raises(NoProviderAvailable, match="cooling"):
            replica.select_provider("m")
        other.update_health("good", available=True, weight=2.0)
        eventually(lambda: not candidate.here.limited_until)
        assert replica.select_provider("m").name == "good"


class TestLogs:
    def test_a_failover_is_one_line(self, pair, caplog):
        """Who, why, which attempt, who is next; a thousand of them are not a thousand lines."""
        replica = pair(circuit=NEVER)
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

    def test_a_handler_that_raises_does_not_fail_the_request(self, pair):
        """The line is lost, not the answer."""

        class Raises(logging.Handler):
            def emit(self, record):
                raise RuntimeError("full disk")

        replica, handler = pair(circuit=NEVER), Raises()
        log = logging.getLogger("redis_router")
        level = log.level
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            for attempt in replica.attempts("m"):
                with attempt:
                    if attempt.provider.name == "bad":
                        raise OSError
        finally:
            log.removeHandler(handler)
            log.setLevel(level)

    def test_who_caused_a_transition_says_so_aloud(self, pair, caplog):
        """Once at WARNING; whoever heard of it, at INFO; both say who it was."""
        first, second = pair(replica="gw-1"), pair(replica="gw-2")
        with caplog.at_level(logging.DEBUG, "redis_router"):
            for _ in range(QUICK.consecutive_failure_limit):
                first.record_result("bad", success=False, latency_ms=1.0, reason="http_503")
            assert first.flush()
            eventually(lambda: second.get_circuit_state("bad") is CircuitState.OPEN)
            eventually(lambda: sum("is open" in r.message for r in caplog.records) == 2)
        said = sorted((r.levelname, r.message) for r in caplog.records if "is open" in r.message)
        text = "bad is open (consecutive_failures), was closed; seen by gw-1"
        assert said == [("INFO", text), ("WARNING", text)]

    def test_a_cooldown_is_one_line(self, pair, caplog):
        """At INFO by whoever was told; the others whisper."""
        first, second = pair(replica="gw-1"), pair(replica="gw-2")
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

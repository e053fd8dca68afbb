"""What becomes of a request: verdicts, attempts, waiting, and circuits for each model, on every backend."""

import asyncio
import copy
import pickle
import threading
import time
from dataclasses import asdict, dataclass, replace

import pytest

from redis_router import (
    CircuitConfig,
    InvalidArgument,
    NoProviderAvailable,
    Outcome,
    Provider,
    RouterError,
    UnknownProvider,
    Verdict,
    classify,
)
from tests.contract.test_router import AZURE, OPENAI, QUICK, fail, until
from tests.support import eventually, metric

CLAUDE = Provider("anthropic", models=("claude-sonnet",))


class Status(Exception):
    """As SDKs raise it."""

    def __init__(self, status, **headers):
        super().__init__(f"status {status}")
        self.status_code = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.fixture
def fleet(router):
    """Two started replicas that know openai and azure for gpt-4o, and anthropic."""

    def make(**options):
        replicas = [router(**{"circuit": QUICK, "strategy": "round_robin", **options}) for _ in range(2)]
        for replica in replicas:
            for provider in (OPENAI, AZURE, CLAUDE):
                replica.register_provider(provider)
            replica.start()
        return replicas

    return make


def health(replica, name):
    assert replica.flush()
    return replica.get_health_status()[name]


def only(replica, name):
    """Take the others out of service, so that the next attempt is this provider's."""
    for other in {"openai", "azure"} - {name}:
        replica.update_health(other, available=False)


def ask(attempts, *errors, tried=None, before=lambda attempt: None):
    """Enter each attempt and raise its error, None for an answer; returns the attempts."""
    tried = [] if tried is None else tried
    for attempt in attempts:
        with attempt:
            tried.append(attempt)
            before(attempt)
            error = errors[min(len(tried), len(errors)) - 1]
            if error is not None:
                raise error
    return tried


def odd_error(kind):
    """An exception that cannot take a note, each in its way."""

    @dataclass(frozen=True)
    class Frozen(Exception):
        code: int = 1

    class ReadOnly(Exception):
        def __setattr__(self, name, value):
            raise AttributeError(name)

    class Getattr(Exception):
        def __getattr__(self, name):
            raise RuntimeError(name)

    made = {"frozen": Frozen, "read_only": ReadOnly, "getattr": Getattr}.get(kind, OSError)()
    if kind in ("none", "tuple"):
        made.__notes__ = None if kind == "none" else ("fixed",)
    return made


class TestVerdicts:
    @pytest.mark.parametrize(
        ("said", "counted"),
        [
            (lambda attempt: attempt.fail("nonsense"), (1, "nonsense")),
            (lambda attempt: attempt.ignore(), (0, "")),
            (lambda attempt: attempt.judge(Status(503)), (1, "http_503")),
            (lambda attempt: attempt.judge(Status(404)), (0, "")),
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
            assert attempt.judge(Status(500)) == Verdict(Outcome.FAILURE, "http_500")
            attempt.succeed()
        assert health(replica, "azure").consecutive_successes == 1

    def test_the_first_token_is_what_counts(self, fleet):
        """A long answer is not a slow provider; its whole duration is in the metrics."""
        replica, _ = fleet()
        only(replica, "azure")
        with replica.attempt("gpt-4o") as attempt:
            attempt.first_token()
            time.sleep(0.1)
            attempt.first_token()  # only the first one
        assert 0 < health(replica, "azure").latency_ms < 50
        assert metric(replica._registry, "request_latency_seconds_sum", provider="azure") >= 0.1

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
            reason: metric(replica._registry, "failures_total", provider="azure", reason=reason)
            for reason in ("unauthorized", "http_500", "connection", "mine", "unspecified")
        }
        assert counted == {"unauthorized": 2, "http_500": 1, "connection": 1, "mine": 1, "unspecified": 1}


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
            assert {replica.select_provider("gpt-4o").name for _ in range(10)} == {"openai"}
            assert replica.get_circuit_state("azure") == "closed"
        assert metric(first._registry, "requests_total", provider="azure", outcome="rate_limited") == 1

    def test_when_it_is_over_calls_flow_again(self, fleet):
        """Without any news: each replica looks at the clock."""
        first, second = fleet()
        with first.attempt("gpt-4o") as attempt:
            attempt.rate_limited(0.3)
        name = attempt.provider.name
        assert first.flush()
        eventually(lambda: second.get_health_status()[name].cooldown_until_ms > 0)
        assert name not in {second.select_provider("gpt-4o").name for _ in range(4)}
        began = time.monotonic()
        eventually(lambda: name in {second.select_provider("gpt-4o").name for _ in range(4)})
        assert time.monotonic() - began < 2

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
            left = health(replica, provider).cooldown_until_ms - replica._engine.now_ms()
            assert expected - 1 < left / 1000 <= expected

    def test_a_trial_call_that_is_limited_gives_its_permit_back(self, fleet, checker, backend):
        """Without a verdict: half-open goes on."""
        replica, _ = fleet()
        only(replica, "openai")
        fail(replica, "openai")
        worker = checker()
        eventually(lambda: "openai" in worker.run_once().half_opened)
        until(replica, "openai", "half_open")

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
        assert backend.client().zcard(replica._engine.store.keys.permits("openai")) == 0


class TestAttempts:
    def test_at_most_so_many(self, fleet):
        """The last error comes with those before it."""
        replica, _ = fleet()
        tried = []
        with pytest.raises(OSError, match="call 1") as caught:
            ask(replica.attempts("gpt-4o", max_attempts=1), OSError("call 1"), tried=tried)
        assert len(tried) == 1
        assert not getattr(caught.value, "__notes__", [])

    def test_the_last_error_tells_of_the_earlier_ones(self, fleet):
        """And why nobody else was asked."""
        replica, _ = fleet()
        with pytest.raises(TimeoutError, match="call 2") as caught:
            ask(replica.attempts("gpt-4o"), OSError("call 1"), TimeoutError("call 2"))
        first, second = caught.value.__notes__
        assert "OSError: call 1" in first
        assert "tried already" in second

    def test_a_bad_request_is_passed_on_at_once(self, fleet):
        """It would be as bad elsewhere, and says nothing about the provider."""
        replica, _ = fleet()
        tried = []
        with pytest.raises(Status, match="400"):
            ask(replica.attempts("gpt-4o"), Status(400), tried=tried)
        assert len(tried) == 1
        assert health(replica, tried[0].provider.name).consecutive_failures == 0

    def test_fallback_models_come_after(self, fleet):
        """Each attempt says which model to ask for; the fallback's providers come when the first model's failed."""
        replica, _ = fleet()
        chain = {"gpt-4o": ["claude-sonnet"], "x": ["y"]}
        tried = ask(replica.attempts("gpt-4o", fallbacks=chain), OSError(), OSError(), None)
        asked = [(attempt.provider.name, attempt.model) for attempt in tried]
        assert sorted(asked[:2]) == [("azure", "gpt-4o"), ("openai", "gpt-4o")]
        assert asked[2:] == [("anthropic", "claude-sonnet")]

    def test_fallbacks_that_serve_the_model_too_are_asked_last(self, fleet):
        """Of the fallback model first those not tried at all; then the others, once for each model."""
        replica, _ = fleet()
        replica.register_provider(Provider("other", models=("gpt-4o-mini",)))
        tried = []
        with pytest.raises(OSError, match="down"):
            ask(replica.attempts("gpt-4o", fallbacks={"gpt-4o": ["gpt-4o-mini"]}), OSError("down"), tried=tried)
        asked = [(attempt.provider.name, attempt.model) for attempt in tried]
        assert asked[2:] == [("other", "gpt-4o-mini"), ("openai", "gpt-4o-mini")]
        assert len(set(asked)) == len(asked) == 4

    def test_where_the_model_is_down_a_fallback_is_first(self, fleet):
        """And where all are, the reasons are of all."""
        replica, _ = fleet(circuit=replace(QUICK, open_timeout=30.0))
        only(replica, "azure")
        fail(replica, "azure")
        chain = {"gpt-4o": ["claude-sonnet", "gpt-5"]}
        with next(iter(replica.attempts("gpt-4o", fallbacks=chain))) as attempt:
            assert attempt.model == "claude-sonnet"
        fail(replica, "anthropic")
        with pytest.raises(NoProviderAvailable) as caught:
            next(iter(replica.attempts("gpt-4o", fallbacks={"gpt-4o": ["claude-sonnet"]})))
        assert caught.value.reasons.keys() == {"openai", "azure", "anthropic"}
        assert caught.value.reasons["openai"].startswith("drained")
        assert caught.value.reasons["azure"].startswith("circuit open until ")
        assert 25 < caught.value.retry_after <= 30

    def test_no_attempt_begins_after_the_deadline(self, fleet):
        """The error in hand is passed on; and who had all of the time and did not answer has failed."""
        replica, _ = fleet()
        tried, left = [], []

        def call(attempt):
            left.append(attempt.remaining)
            time.sleep(attempt.remaining)

        with pytest.raises(TimeoutError):
            ask(replica.attempts("gpt-4o", deadline=0.1), TimeoutError("read timed out"), tried=tried, before=call)
        assert len(tried) == 1
        assert 0 < left[0] <= 0.1
        assert health(replica, tried[0].provider.name).last_failure == "timeout"

    def test_a_time_out_before_the_deadline_is_the_providers(self, fleet):
        """And the next one is tried."""
        replica, _ = fleet()
        tried = ask(replica.attempts("gpt-4o", deadline=30.0), TimeoutError("read timed out"), None)
        assert health(replica, tried[0].provider.name).last_failure == "timeout"

    def test_failed_by_hand_the_next_one_follows(self, fleet):
        """For clients that do not raise: the loop goes on, and ends when nobody is left."""
        replica, _ = fleet()
        answers = []
        for attempt in replica.attempts("gpt-4o"):
            with attempt:
                answers.append(attempt.judge(Status(500)))
        assert len(answers) == 2

    @pytest.mark.parametrize(
        "options",
        [
            {"max_attempts": 0},
            {"deadline": -1.0},
            {"fallbacks": ["claude"]},
            {"fallbacks": {"gpt-4o": "claude"}},
            {"fallbacks": {"gpt-4o": [None]}},
            {"fallbacks": {"gpt-4o": None}},
            {"wait": "yes"},
        ],
    )
    def test_bad_options_are_refused_at_once(self, fleet, options):
        """Before the first attempt."""
        with pytest.raises(InvalidArgument):
            fleet()[0].attempts("gpt-4o", **options)

    def test_after_the_deadline_no_prepared_attempt_begins_either(self, fleet):
        """The gateway took its time between two attempts."""
        replica, _ = fleet()
        began = []

        def loop():
            for attempt in replica.attempts("gpt-4o", deadline=0.1):
                with attempt:
                    began.append(attempt)
                    raise OSError("down")
                time.sleep(0.15)

        with pytest.raises(OSError, match="down"):
            loop()
        assert len(began) == 1

    def test_a_loop_that_was_left_holds_no_error_back(self, fleet):
        """Entered after it, an attempt is one by itself: its error is passed on, and nobody else is chosen."""
        replica, _ = fleet()
        attempts = replica.attempts("gpt-4o")
        left = []
        for attempt in attempts:
            left.append(attempt)
            break
        with pytest.raises(OSError, match="mine"), left[0]:
            raise OSError("mine")
        assert attempts._next is None

    def test_an_attempt_that_is_passed_over_loses_no_error(self, fleet):
        """The first one failed, the second was not begun."""
        replica, _ = fleet()

        def loop():
            for number, attempt in enumerate(replica.attempts("gpt-4o")):
                if number == 0:
                    with attempt:
                        raise OSError("down")

        with pytest.raises(OSError, match="down"):
            loop()

    def test_an_error_that_is_raised_again_and_again_keeps_its_notes_short(self, fleet):
        """A cached exception, or a mock's."""
        replica, _ = fleet(circuit=CircuitConfig(consecutive_failure_limit=100, failure_rate_threshold=1.0))
        error = OSError("down")
        for _ in range(5):
            with pytest.raises(OSError, match="down"):
                ask(replica.attempts("gpt-4o"), error)
        assert len(error.__notes__) == 2

    def test_an_error_that_cannot_be_shown_is_passed_on(self, fleet):
        """Its name will do."""

        class Shy(Exception):
            def __str__(self):
                raise RuntimeError("no")

        with pytest.raises(Shy):
            ask(fleet()[0].attempts("gpt-4o"), Shy())

    @pytest.mark.parametrize("kind", ["frozen", "none", "tuple", "read_only", "getattr"])
    def test_an_error_that_takes_no_notes_is_passed_on(self, fleet, kind):
        """The provider's, not one of ours about it."""
        error = odd_error(kind)
        with pytest.raises(type(error)) as caught:
            ask(fleet()[0].attempts("gpt-4o"), error)
        assert caught.value is error

    def test_a_strategy_that_fails_later_hides_no_error(self, fleet, caplog):
        """The provider's error is passed on; what the strategy raised is in the log."""

        class Once:
            def prepare(self, model, candidates):
                return (lambda: candidates[0]) if len(candidates) > 1 else (lambda: candidates[7])

        with pytest.raises(OSError, match="down"):
            ask(fleet(strategy=Once())[0].attempts("gpt-4o"), OSError("down"))
        assert "IndexError" in caplog.text

    def test_a_trial_call_that_is_begun_too_late_is_none(self, fleet, checker):
        """The loop was left, its permit given back; the call moves the averages only."""
        replica, _ = fleet(circuit=replace(QUICK, half_open_success_threshold=1))
        only(replica, "openai")
        fail(replica, "openai")
        worker = checker()
        eventually(lambda: "openai" in worker.run_once().half_opened)
        until(replica, "openai", "half_open")
        kept = []

        def take():
            try:
                for attempt in replica.attempts("gpt-4o"):
                    kept.append(attempt)
                    return True
            except NoProviderAvailable:
                return False

        eventually(take)
        with kept[0] as attempt:
            assert (attempt.permit, attempt.generation) == (None, 0)
        assert health(replica, "openai").circuit_state == "half_open"

    def test_a_keyboard_interrupt_is_never_held_back(self, fleet):
        """Whatever the code said before."""
        replica, _ = fleet()
        with pytest.raises(KeyboardInterrupt):
            ask(replica.attempts("gpt-4o"), KeyboardInterrupt(), before=lambda attempt: attempt.fail())


class TestWaiting:
    """All are out; the first to come back is taken."""

    def out(self, replica, other):
        for name in ("openai", "azure"):
            replica.update_health(name, available=False)
        for each in (replica, other):
            eventually(lambda each=each: not each._view.table.find("gpt-4o").routable)

    def back(self, other, after=0.1):
        timer = threading.Timer(after, other.update_health, ("azure",), {"available": True})
        timer.start()
        return timer

    def test_in_a_thread(self, fleet):
        """Another replica's operator puts a provider back."""
        replica, other = fleet()
        self.out(replica, other)
        timer = self.back(other)
        for attempt in replica.attempts("gpt-4o", wait=True, deadline=20.0):
            with attempt:
                assert attempt.provider is AZURE
        timer.join()
        assert health(replica, "azure").consecutive_successes == 1

    def test_in_asyncio(self, fleet):
        """The loop goes on meanwhile."""
        replica, other = fleet()
        self.out(replica, other)
        beats = 0

        async def beat():
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.01)

        async def request():
            beating = asyncio.create_task(beat())
            async for attempt in replica.attempts("gpt-4o", wait=True, deadline=20.0):
                with attempt:
                    assert attempt.provider is AZURE
            beating.cancel()

        timer = self.back(other)
        asyncio.run(request())
        timer.join()
        assert beats > 3

    def test_a_hundred_requests_wait_at_once(self, fleet):
        """Nobody is forgotten."""
        replica, other = fleet()
        self.out(replica, other)
        served = []

        async def request():
            async for attempt in replica.attempts("gpt-4o", wait=True, deadline=20.0):
                with attempt:
                    served.append(attempt.provider.name)

        async def all_of_them():
            await asyncio.gather(*(request() for _ in range(100)))

        timer = self.back(other)
        asyncio.run(all_of_them())
        timer.join()
        assert served == ["azure"] * 100
        assert not replica._engine.bell.is_heard

    def test_until_the_deadline(self, fleet):
        """Then it says why."""
        replica, other = fleet()
        self.out(replica, other)
        began = time.monotonic()
        with pytest.raises(NoProviderAvailable, match="drained"):
            next(iter(replica.attempts("gpt-4o", wait=True, deadline=0.2)))
        assert 0.2 <= time.monotonic() - began < 5

    def test_a_model_that_nobody_serves_is_not_waited_for(self, fleet):
        """It would never come."""
        replica, _ = fleet()
        with pytest.raises(NoProviderAvailable, match="no provider serves it"):
            next(iter(replica.attempts("gpt-9", wait=True, deadline=20.0)))

    def test_a_half_open_circuit_is_waited_for(self, fleet, checker):
        """Until the worker moves it and a permit is there."""
        replica, _ = fleet(circuit=replace(QUICK, open_timeout=0.2))
        replica.update_health("azure", available=False)
        fail(replica, "openai")
        checker(interval=0.1).start()
        for attempt in replica.attempts("gpt-4o", wait=True, deadline=20.0):
            with attempt:
                assert attempt.provider is OPENAI
                assert attempt.permit is not None

    def test_the_first_error_is_held_back_while_it_waits(self, fleet):
        """A fails, B is out and comes back: the request succeeds. Else A's error is what the caller sees."""
        replica, other = fleet()
        replica.update_health("azure", available=False)
        eventually(lambda: len(replica._view.table.find("gpt-4o").routable) == 1)
        timer = self.back(other)
        tried = ask(replica.attempts("gpt-4o", wait=True, deadline=20.0), OSError("down"), None)
        timer.join()
        assert [attempt.provider.name for attempt in tried] == ["openai", "azure"]
        replica.update_health("azure", available=False)
        eventually(lambda: len(replica._view.table.find("gpt-4o").routable) == 1)
        with pytest.raises(OSError, match="down") as caught:
            ask(replica.attempts("gpt-4o", wait=True, deadline=0.3), OSError("down"))
        assert "drained" in caught.value.__notes__[-1]

    def test_a_rate_limited_provider_is_tried_again_when_it_is_over(self, fleet):
        """The only one there is: its limit is waited out."""
        replica, _ = fleet()
        limited = Status(429, retry_after="0.2")
        assert len(ask(replica.attempts("claude-sonnet", wait=True, deadline=20.0), limited, None)) == 2

    @pytest.mark.parametrize("said", ["0", "-5", "Mon, 01 Jan 2001 00:00:00 GMT"])
    def test_a_limit_that_is_over_already_is_not_hammered(self, fleet, said):
        """Whatever it says, the provider is asked again after a pause; and not for ever."""
        replica, _ = fleet()
        tried = []
        with pytest.raises(Status):
            ask(replica.attempts("claude-sonnet", wait=True, deadline=1.5), Status(429, retry_after=said), tried=tried)
        assert len(tried) == 2

    def test_closing_the_router_ends_it(self, fleet):
        """Nobody will come back here."""
        replica, other = fleet()
        self.out(replica, other)
        timer = threading.Timer(0.2, replica.close)
        timer.start()
        began = time.monotonic()
        with pytest.raises(NoProviderAvailable):
            next(iter(replica.attempts("gpt-4o", wait=True, deadline=60.0)))
        timer.join()
        assert time.monotonic() - began < 30

    def test_a_plain_loop_under_asyncio_does_not_wait_by_default(self, fleet):
        """Where the router says wait, and the loop cannot: the provider's own error is what counts."""
        replica, _ = fleet(when_all_open="wait")

        async def request():
            ask(replica.attempts("claude-sonnet"), OSError("down"))

        with pytest.raises(OSError, match="down"):
            asyncio.run(request())

    def test_a_plain_loop_does_not_block_asyncio(self, fleet):
        """It is refused, with the remedy."""
        replica, other = fleet()
        self.out(replica, other)

        async def request():
            for _ in replica.attempts("gpt-4o", wait=True, deadline=20.0):
                pass

        with pytest.raises(RouterError, match="async for"):
            asyncio.run(request())

    def test_by_default_where_the_router_says_so(self, fleet):
        """`when_all_open="wait"`; a single attempt never waits."""
        replica, other = fleet(when_all_open="wait")
        self.out(replica, other)
        with pytest.raises(NoProviderAvailable):
            replica.select_provider("gpt-4o")
        with pytest.raises(NoProviderAvailable):
            next(iter(replica.attempts("gpt-4o", wait=False)))
        timer = self.back(other)
        with next(iter(replica.attempts("gpt-4o", deadline=20.0))) as attempt:
            assert attempt.provider is AZURE
        timer.join()


class TestWhenAllAreOpen:
    def test_the_least_bad_one_is_better_than_none(self, fleet):
        """An open circuit gets the call, which moves no circuit; one that an operator drained never does."""
        replica, _ = fleet(when_all_open="least_bad", circuit=replace(QUICK, open_timeout=30.0))
        fail(replica, "openai")
        assert replica.select_provider("gpt-4o") is AZURE
        replica.update_health("azure", available=False)
        generation = health(replica, "openai").generation
        for attempt in replica.attempts("gpt-4o"):
            with attempt:
                assert attempt.provider is OPENAI
                assert attempt.generation == 0
        found = health(replica, "openai")
        assert (found.circuit_state, found.generation) == ("open", generation)

    def test_least_bad_in_half_open_takes_no_part_in_the_trial(self, fleet, checker):
        """Permits bound the trial; what goes there without one is no verdict."""
        replica, _ = fleet(when_all_open="least_bad", circuit=replace(QUICK, half_open_success_threshold=100))
        replica.update_health("azure", available=False)
        fail(replica, "openai")
        worker = checker()
        eventually(lambda: "openai" in worker.run_once().half_opened)
        until(replica, "openai", "half_open")
        held = [replica.attempt("gpt-4o") for _ in range(30)]
        without = [attempt for attempt in held if attempt.permit is None]
        assert len(held) - len(without) <= QUICK.half_open_max_probes
        for attempt in without:
            with attempt:
                pass
        assert health(replica, "openai").consecutive_successes == 0
        for attempt in held:
            attempt.discard()
        for _ in range(5):  # by hand, it is no trial either
            assert replica.select_provider("gpt-4o") is OPENAI
            replica.record_result("openai", success=True, latency_ms=1.0)
        assert health(replica, "openai").circuit_state == "half_open"

    def test_only_so_many_are_left_out(self, fleet):
        """Here: of two, one at most. The shared record is as open as before."""
        replica, strict = fleet(max_ejection_percent=50.0, circuit=replace(QUICK, open_timeout=30.0))
        fail(replica, "openai")
        assert {replica.select_provider("gpt-4o").name for _ in range(10)} == {"azure"}
        fail(replica, "azure", 4)
        assert replica.get_circuit_state("azure") == replica.get_circuit_state("openai") == "open"
        assert len({replica.select_provider("gpt-4o").name for _ in range(10)}) == 1
        until(strict, "azure", "open")

    @pytest.mark.parametrize(
        "options",
        [{"when_all_open": "hope"}, {"max_ejection_percent": 101}, {"rate_limit_cooldown": -1}, {"classify": 1}],
    )
    def test_bad_options_are_refused(self, router, options):
        """With the choices."""
        with pytest.raises(InvalidArgument):
            router(**options)


class TestReporters:
    CONFIG = replace(QUICK, min_reporters=2, open_timeout=0.2)

    def test_a_poisoned_replica_opens_its_own_view_only(self, fleet):
        """Its own calls fail, it stops making them; the others go on; and it comes back by trial calls of its own."""
        poisoned, other = fleet(circuit=self.CONFIG)
        seen = []
        poisoned._engine._herald._listener = seen.append
        fail(poisoned, "openai")
        until(poisoned, "openai", "open")
        assert {poisoned.select_provider("gpt-4o").name for _ in range(10)} == {"azure"}
        assert poisoned._engine.mirror.records["openai"].circuit_state == "closed"
        assert other.get_circuit_state("openai") == "closed"
        assert metric(
            poisoned._registry, "local_state_changes_total", provider="openai", from_state="closed", to_state="open"
        )
        until(poisoned, "openai", "half_open")

        def trial():
            with poisoned.attempt("gpt-4o") as attempt:
                return attempt.provider is OPENAI

        eventually(trial)
        eventually(lambda: trial() and poisoned.flush() and poisoned.get_circuit_state("openai") == "closed")
        assert poisoned._engine.mirror.records["openai"].generation == 1
        fail(poisoned, "openai")
        until(poisoned, "openai", "open")  # once more, from the beginning

    def test_what_redis_missed_is_forgotten(self, fleet):
        """Away from Redis the replica decides for itself; back, it begins with the fleet's word."""
        poisoned, _ = fleet(circuit=replace(self.CONFIG, open_timeout=30.0))
        fail(poisoned, "openai")
        until(poisoned, "openai", "open")
        view = poisoned._engine.view
        view.go_alone(poisoned._engine.now_ms)
        assert poisoned.get_circuit_state("openai") == "open"
        view.rejoin(poisoned._engine.mirror.records)
        assert poisoned.get_circuit_state("openai") == "closed"

    def test_the_fleets_trial_takes_the_fleets_permits(self, fleet, checker):
        """A replica whose own view was open, too, counts against the limit, and its success is a verdict."""
        first, second = fleet(circuit=replace(self.CONFIG, half_open_max_probes=1))
        for replica in (first, second):
            replica.update_health("azure", available=False)
        fail(first, "openai")
        fail(second, "openai")
        worker = checker()
        eventually(lambda: "openai" in worker.run_once().half_opened)

        def trial(replica):
            try:
                return replica.attempt("gpt-4o")
            except NoProviderAvailable:
                return None

        eventually(lambda: any(trial(replica) for replica in (first, second)), "a permit for one of them")
        assert not any(trial(replica) for replica in (first, second)), "and none for the other"

    def test_two_open_it_for_all(self, fleet):
        """And the fleet's word replaces the replica's own."""
        first, second = fleet(circuit=replace(self.CONFIG, open_timeout=30.0))
        fail(first, "openai")
        until(first, "openai", "open")
        assert second.get_circuit_state("openai") == "closed"
        fail(second, "openai", 1)
        for replica in (first, second):
            eventually(lambda replica=replica: replica._engine.mirror.records["openai"].circuit_state == "open")
            until(replica, "openai", "open")
            eventually(lambda replica=replica: replica.get_health_status()["openai"].generation == 2)


class TestCircuitPerModel:
    BOTH = Provider("openai", models=("gpt-4o", "gpt-4o-mini"), circuit_per_model=True, client="the client")

    @pytest.fixture
    def pair(self, router):
        replicas = [router(circuit=QUICK) for _ in range(2)]
        for replica in replicas:
            replica.register_provider(self.BOTH)
            replica.start()
        return replicas

    def test_one_model_fails_alone(self, pair):
        """The others go on; callers see the provider that they registered."""
        first, second = pair
        for _ in range(3):
            first.record_result("openai", model="gpt-4o", success=False, latency_ms=1.0)
        assert first.flush()
        eventually(lambda: second.get_circuit_state("openai", model="gpt-4o") == "open")
        assert second.get_circuit_state("openai", "gpt-4o-mini") == "closed"
        with pytest.raises(NoProviderAvailable, match="openai/gpt-4o"):
            second.select_provider("gpt-4o")
        assert second.select_provider("gpt-4o-mini") is self.BOTH
        with second.attempt("gpt-4o-mini") as attempt:
            assert attempt.provider.client == "the client"
        assert health(second, "openai/gpt-4o-mini").consecutive_successes == 1
        assert [model.owned_by for model in second.registered_models()] == ["openai", "openai"]

    def test_settings_hold_for_all_its_models(self, pair):
        """By the provider's name; or for one, by its record's."""
        first, second = pair
        first.update_health("openai", available=False)
        for model in self.BOTH.models:
            eventually(lambda model=model: not second.get_health_status()[f"openai/{model}"].available)
        first.update_health("openai/gpt-4o", available=True)
        eventually(lambda: second.get_health_status()["openai/gpt-4o"].available)
        assert not second.get_health_status()["openai/gpt-4o-mini"].available
        first.set_circuit_config(CircuitConfig(open_timeout=7.0), "openai")
        assert {h.config.open_timeout for h in first.get_health_status().values()} == {7.0}
        first.deregister_provider("openai", everywhere=True)
        eventually(lambda: not second.get_health_status())

    def test_the_model_must_be_named(self, pair):
        """Where it decides which circuit is meant."""
        with pytest.raises(InvalidArgument, match="give model="):
            pair[0].record_result("openai", success=True, latency_ms=1.0)
        with pytest.raises(InvalidArgument, match="give model="):
            pair[0].get_circuit_state("openai")
        with pytest.raises(UnknownProvider):
            pair[0].record_result("openai", model="gpt-9", success=True, latency_ms=1.0)

    def test_registered_again_its_old_parts_are_gone(self, pair):
        """For fewer models, or as one: whoever was registered last serves."""
        first, _ = pair
        first.register_provider(Provider("openai", models=("gpt-4o",), circuit_per_model=True, client="newer"))
        assert first.get_health_status().keys() == {"openai/gpt-4o"}
        with pytest.raises(NoProviderAvailable):
            first.select_provider("gpt-4o-mini")
        first.register_provider(Provider("openai", models=("gpt-4o",), client="newest"))
        assert first.get_health_status().keys() == {"openai"}
        assert first.select_provider("gpt-4o").client == "newest"

    def test_a_part_that_was_taken_out_is_no_reason_to_miss_news(self, pair):
        """The other part's circuit opens all the same."""
        first, _ = pair
        first.deregister_provider("openai/gpt-4o-mini")
        for _ in range(3):
            first.record_result("openai", model="gpt-4o", success=False, latency_ms=1.0)
        assert first.flush()
        assert first.get_circuit_state("openai") == "open"

    def test_it_travels(self):
        """Copied, pickled, turned into a dict: parts and whole."""
        part = self.BOTH.parts()[0]
        assert asdict(self.BOTH)["name"] == "openai"
        assert pickle.loads(pickle.dumps(part)).whole == self.BOTH
        assert copy.copy(self.BOTH).whole == self.BOTH

    @pytest.mark.parametrize("models", [("*",), ("a model",), ("x" * 64,)])
    def test_models_that_make_no_record_are_refused(self, models):
        """Their names come into Redis keys."""
        with pytest.raises(InvalidArgument, match="circuit"):
            Provider("openai", models=models, circuit_per_model=True)

    def test_a_shared_record_is_refused(self, pair):
        """Two providers would share one circuit without knowing."""
        with pytest.raises(InvalidArgument, match="would share the record"):
            pair[0].register_provider(Provider("openai/gpt-4o", models=("m",)))


def test_classify_is_public():
    """For a classifier that adds a case to ours."""
    assert classify(Status(500)).outcome is Outcome.FAILURE

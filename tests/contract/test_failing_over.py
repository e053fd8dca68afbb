"""From one provider to the next: how long it goes on, whose error is passed on, and what it tells."""

import time
from dataclasses import dataclass, replace

import pytest

from redis_router import CircuitConfig, InvalidArgument, NoProviderAvailable, Provider
from tests.support import eventually
from tests.support.fleet import QUICK, Status, ask, fail, half_open, health, only


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
            time.sleep(attempt.remaining)  # the call takes all the time there is

        with pytest.raises(TimeoutError):
            ask(replica.attempts("gpt-4o", deadline=0.5), TimeoutError("read timed out"), tried=tried, before=call)
        assert len(tried) == 1
        assert left[0] <= 0.5
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
                answers.append(attempt.classify(Status(500)))
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
                eventually(lambda: began[-1].remaining <= 0, "the deadline is over")

        with pytest.raises(OSError, match="down"):
            loop()
        assert len(began) == 1

    def test_a_loop_that_was_left_holds_no_error_back(self, fleet):
        """Entered after it, an attempt is one by itself: its error is passed on, and nobody else is chosen."""
        choices = []

        class Watched:
            def prepare(self, model, candidates):
                return lambda: choices.append(model) or candidates[0]

        replica, _ = fleet(strategy=Watched())
        left = next(iter(replica.attempts("gpt-4o")))
        with pytest.raises(OSError, match="mine"), left:
            raise OSError("mine")
        assert choices == ["gpt-4o"]

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
        half_open(replica, checker())
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

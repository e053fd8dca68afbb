"""The rules beside the original's, each through the scripts, on every backend, at moments that the test sets."""

from dataclasses import replace

import pytest

from redis_router import CircuitConfig, CircuitState, InvalidArgument, Outcome, Provider
from redis_router.circuit import machine as circuit
from redis_router.circuit.outcome import Result
from redis_router.store.redis import Batch
from tests.support import recorded, result

OPENAI = Provider("openai", models=("gpt-4o",))
LENIENT = CircuitConfig(failure_rate_threshold=1.0, consecutive_failure_limit=1_000, open_timeout=10)
"""The original's rules never fire: what opens the circuit is the rule under test."""
START = 1_700_000_000_000


def text(raw):
    """What a client returned, which decodes or not."""
    return raw.decode() if isinstance(raw, bytes) else raw


class Told:
    """A store at a moment of its own, and batches numbered as they come."""

    def __init__(self, store, config) -> None:
        self.store = store
        self.seq = 0
        store.now_ms = START
        store.jitter = lambda: 0.0
        store.register(OPENAI, config)

    def at(self, seconds):
        self.store.now_ms = START + round(seconds * 1000)
        return self

    def says(self, *successes, latency_ms=10.0):
        generation = self.store.snapshot().records["openai"].generation
        return self.send(*[result("openai", ok, generation, latency_ms) for ok in successes])

    def send(self, *results):
        self.seq += 1
        return recorded(self.store, "openai", self.seq, *results)

    def half_open(self):
        return self.store.half_open("openai").health


@pytest.fixture
def told(backend):
    return lambda config, writer="gw": Told(backend.store(writer), config)


class TestMinimumCalls:
    def test_a_rate_waits_for_them(self, told):
        """Without a window: calls since the circuit closed. Nine failures of nine open nothing, the tenth does."""
        fleet = told(CircuitConfig(consecutive_failure_limit=1_000, minimum_calls=10))
        assert fleet.says(*[False] * 9).health.circuit_state is CircuitState.CLOSED
        reply = fleet.says(False).health
        assert (reply.circuit_state, reply.open_reason) == (CircuitState.OPEN, "failure_rate")

    def test_failures_in_a_row_do_not_wait(self, told):
        """They are no rate."""
        fleet = told(CircuitConfig(minimum_calls=100))
        assert fleet.says(*[False] * 5).health.open_reason == "consecutive_failures"

    def test_the_window_may_hold_them(self, told):
        """With a window it is the window's calls that count: old ones do not."""
        fleet = told(replace(LENIENT, window=10.0, window_failure_rate_threshold=0.5, minimum_calls=10))
        fleet.says(*[False] * 9)
        assert fleet.at(20).says(False).health.circuit_state is CircuitState.CLOSED
        assert fleet.at(21).says(*[False] * 9).health.open_reason == "window_failure_rate"


class TestWindow:
    CONFIG = replace(LENIENT, window=10.0, window_failure_rate_threshold=0.5, minimum_calls=4)

    def test_a_brown_out_opens_what_the_average_does_not(self, told):
        """Every other call fails: never two in a row, the average far below its threshold."""
        reply = told(self.CONFIG).says(True, False, True, False)
        assert [t.reason for t in reply.transitions] == ["window_failure_rate"]

    def test_it_is_the_fleets(self, told):
        """Two replicas with two calls each."""
        first, second = told(self.CONFIG, "gw1"), told(self.CONFIG, "gw2")
        first.says(True, False)
        assert second.says(True, False).health.circuit_state is CircuitState.OPEN

    def test_what_is_older_than_the_window_does_not_count(self, told):
        """Ten buckets of a second: failures of second 0 are out after second 9."""
        fleet = told(self.CONFIG)
        fleet.at(0).says(False, False, False)
        assert fleet.at(9.9).says(True).health.window_calls == "3 0 0 0 0 0 0 0 0 1"
        health = fleet.at(10).says(True, True, False).health
        assert (health.window_calls, health.window_failures) == ("0 0 0 0 0 0 0 0 1 3", "0 0 0 0 0 0 0 0 0 1")
        assert health.circuit_state is CircuitState.CLOSED

    def test_a_clock_that_was_set_back_a_little_counts_on(self, told):
        """In the newest bucket; far back, the window begins anew."""
        fleet = told(self.CONFIG)
        fleet.at(5).says(True)
        assert fleet.at(3).says(True).health.window_calls.endswith(" 2")
        assert fleet.at(-60).says(True).health.window_calls == "0 0 0 0 0 0 0 0 0 1"

    def test_a_transition_begins_it_anew(self, told):
        """Half-open closes, and the failures that opened it are forgotten."""
        fleet = told(self.CONFIG)
        fleet.says(False, False, False, False)
        fleet.at(10).half_open()
        health = fleet.says(True, True, True, False).health
        assert health.circuit_state is CircuitState.CLOSED
        assert fleet.says(True, False).health.window_calls == "0 0 0 0 0 0 0 0 0 2"

    def test_late_results_are_not_in_it(self, told):
        """A call that began before the last transition moves the averages only."""
        fleet = told(self.CONFIG)
        fleet.says(True)
        health = fleet.send(result("openai", False, generation=0)).health
        assert health.window_calls == "0 0 0 0 0 0 0 0 0 1"

    def test_off_it_is_not_even_written(self, told, redis_client):
        """A record with default settings has the original's fields."""
        fleet = told(CircuitConfig())
        fleet.says(True, False)
        keys = set(map(text, redis_client.hgetall(fleet.store.keys.health("openai"))))
        assert not {k for k in keys if k.startswith(("window", "slow", "min", "cooldown", "open_timeout_f", "times"))}


class TestSlowCalls:
    CONFIG = replace(
        LENIENT, window=10.0, slow_call_duration_threshold=1.0, slow_call_rate_threshold=0.5, minimum_calls=4
    )

    def test_slow_successes_open_the_circuit(self, told):
        """A brown-out without a single failure."""
        fleet = told(self.CONFIG)
        fleet.says(True, True, latency_ms=1_000.0)  # not above the threshold
        assert fleet.says(True, latency_ms=1_001.0).health.circuit_state is CircuitState.CLOSED
        assert fleet.says(True, latency_ms=1_001.0).health.open_reason == "slow_calls"

    def test_a_slow_trial_call_re_opens_it(self, told):
        """Else it would close, be slow, and open again."""
        fleet = told(self.CONFIG)
        fleet.says(*[True] * 4, latency_ms=2_000.0)
        fleet.at(10).half_open()
        fleet.says(True)
        health = fleet.says(True, latency_ms=2_000.0).health
        assert (health.circuit_state, health.open_reason) == (CircuitState.OPEN, "half_open_probe_slow")


class TestBackoff:
    CONFIG = CircuitConfig(consecutive_failure_limit=1, open_timeout=10, open_timeout_multiplier=2.0)

    def lasts(self, health):
        """How long this opening lasts, in seconds."""
        return health.due_in_ms(health.last_state_change_ms) / 1000

    def test_each_opening_lasts_longer_up_to_the_most(self, told):
        """10, 20, 40, then 50 s; and the scripts keep to it."""
        fleet, now, lasted = told(replace(self.CONFIG, open_timeout_max=50.0)), 0.0, []
        for _ in range(5):
            health = fleet.at(now).says(False).health
            lasted.append(self.lasts(health))
            assert fleet.at(now + lasted[-1] - 0.001).half_open().circuit_state is CircuitState.OPEN
            now += lasted[-1]
            assert fleet.at(now).half_open().circuit_state is CircuitState.HALF_OPEN
        assert lasted == [10, 20, 40, 50, 50]

    def test_health_takes_steps_back(self, told):
        """Three openings, closed for 25 s: two of the steps are taken back."""
        fleet, now = told(self.CONFIG), 0.0
        for _ in range(3):
            now += self.lasts(fleet.at(now).says(False).health)
            fleet.at(now).half_open()
        fleet.says(True, True, True)
        assert self.lasts(fleet.at(now + 25).says(False).health) == 20

    def test_the_callers_chance_lengthens_it(self, told):
        """Up to the jitter: the fleet's circuits must not come back in step."""
        fleet = told(replace(self.CONFIG, open_timeout_jitter=0.5))
        fleet.store.jitter = lambda: 0.4
        assert self.lasts(fleet.says(False).health) == pytest.approx(12)

    def test_off_by_default(self, told):
        """The original's 30 s, each time."""
        fleet = told(CircuitConfig(consecutive_failure_limit=1))
        for now in (0, 30, 60):
            assert self.lasts(fleet.at(now).says(False).health) == 30
            fleet.at(now + 30).half_open()


class TestReporters:
    CONFIG = CircuitConfig(consecutive_failure_limit=3, min_reporters=2, open_timeout=10)

    def test_one_alone_opens_nothing_for_the_fleet(self, told):
        """Whatever it says, and however often, while others call it, too."""
        told(self.CONFIG, "gw2").says(True)
        assert told(self.CONFIG).says(*[False] * 50).health.circuit_state is CircuitState.CLOSED

    def test_one_that_calls_it_alone_does(self, told):
        """Nobody else can say how it is; one that was silent for a minute is no other."""
        told(self.CONFIG, "gw2").says(True)
        first = told(self.CONFIG, "gw1")
        assert first.at(55).says(False, False, False).health.circuit_state is CircuitState.CLOSED
        assert first.at(76).says(False).health.open_reason == "consecutive_failures"

    def test_a_second_one_does(self, told):
        """As soon as it complains while the rule holds."""
        first, second = told(self.CONFIG, "gw1"), told(self.CONFIG, "gw2")
        first.says(False, False, False)
        assert second.says(False).health.open_reason == "consecutive_failures"

    def test_a_word_taken_back_does_not_count(self, told):
        """The second one failed once, and has succeeded since: random failures do not add up to an outage."""
        first, second = told(self.CONFIG, "gw1"), told(self.CONFIG, "gw2")
        second.says(False)
        second.says(True)
        assert first.says(*[False] * 50).health.circuit_state is CircuitState.CLOSED

    def test_an_old_word_does_not_either(self, told):
        """A minute without a new one, or twice `open_timeout`: longer than a replica whose view is open stays away."""
        first, second = told(self.CONFIG, "gw1"), told(self.CONFIG, "gw2")
        second.says(False)
        told(self.CONFIG, "gw3").at(60).says(True)
        assert first.at(61).says(*[False] * 5).health.circuit_state is CircuitState.CLOSED
        assert second.at(62).says(False).health.circuit_state is CircuitState.OPEN

    def test_one_alone_does_not_keep_it_open_either(self, told):
        """In half-open the poisoned replica's trial calls fail, the others' close the circuit."""
        first, second = told(self.CONFIG, "gw1"), told(self.CONFIG, "gw2")
        first.says(False, False, False)
        second.says(False)
        assert first.at(10).half_open().circuit_state is CircuitState.HALF_OPEN
        assert first.says(False).health.circuit_state is CircuitState.HALF_OPEN
        assert second.at(10).says(True, True, True).health.circuit_state is CircuitState.CLOSED

    def test_a_trial_of_its_own_renews_its_word(self, told):
        """A replica whose own view is open says so with each trial, though it moves no circuit of the fleet's."""
        first, second = told(self.CONFIG, "gw1"), told(self.CONFIG, "gw2")
        first.says(False, False, False)
        first.at(50).send(result("openai", False, generation=(1 << 50) + 2))
        assert second.at(100).says(False).health.circuit_state is CircuitState.OPEN

    def test_deregistering_forgets_them(self, told, redis_client):
        """No key is left behind."""
        first = told(self.CONFIG)
        first.says(False)
        key = first.store.keys.reporters("openai")
        assert redis_client.exists(key)
        first.store.deregister("openai")
        assert not redis_client.exists(key)


class TestRateLimits:
    def limited(self, seconds, permit="", generation=1):
        return Result("openai", Outcome.RATE_LIMITED, 0.0, generation, permit, cooldown_ms=seconds * 1000)

    def test_the_longer_of_two_holds(self, told):
        """A later, shorter one must not cut it."""
        fleet = told(CircuitConfig())
        assert fleet.send(self.limited(20)).health.cooldown_until_ms == START + 20_000
        assert fleet.at(1).send(self.limited(5)).health.cooldown_until_ms == START + 20_000
        assert fleet.at(2).send(self.limited(30)).health.cooldown_until_ms == START + 32_000

    def test_it_is_no_verdict(self, told):
        """Neither failure nor success: a run of failures goes on, a run of successes does not grow."""
        fleet = told(CircuitConfig())
        before = fleet.says(False, False).health
        after = fleet.send(*[self.limited(1)] * 100).health
        no_limit = {"cooldown_until_ms": 0, "cooldown_ms": 0, "cooling_logged_ms": 0}
        assert replace(after, **no_limit, version=0) == replace(before, version=0)

    def test_it_returns_its_permit(self, backend, told):
        """In half-open, without a verdict; and while it cools nobody gets another."""
        fleet = told(CircuitConfig(consecutive_failure_limit=1, open_timeout=10))
        fleet.says(False)
        generation = fleet.at(10).half_open().generation
        assert fleet.store.claim("openai", ["t1"], 5_000)[1] == ["t1"]
        health = fleet.send(self.limited(3, "t1", generation)).health
        assert (health.circuit_state, health.consecutive_successes) == (CircuitState.HALF_OPEN, 0)
        assert backend.permits() == {}
        assert fleet.at(12.9).store.claim("openai", ["t2"], 5_000)[1] == []
        assert fleet.at(13.1).store.claim("openai", ["t2"], 5_000)[1] == ["t2"]

    def test_it_is_pushed_at_once(self, backend, told):
        """Also where averages were pushed a moment ago; a few ms more are not."""
        fleet = told(CircuitConfig())
        fleet.says(True)
        heard = backend.store().subscribe()
        while heard.next(1.0) != "subscribed":
            pass
        fleet.send(self.limited(20))
        fleet.at(0.01).send(self.limited(20))
        fleet.at(0.02).send(self.limited(40))
        events = [heard.next(1.0) for _ in range(2)]
        assert [(e.kind, e.health.cooldown_until_ms - START) for e in events] == [
            ("cooling", 20_000),
            ("cooling", 40_020),
        ]
        heard.close()

    def test_back_in_service_means_now(self, told):
        """An operator who says so ends it."""
        fleet = told(CircuitConfig())
        fleet.send(self.limited(20))
        assert fleet.store.update("openai", {"available": "1"}).health.cooldown_until_ms == 0

    def test_a_clock_that_was_set_back_does_not_lengthen_it(self, told):
        """An hour back: what was said for five seconds is over, and a new word counts."""
        fleet = told(CircuitConfig())
        health = fleet.send(self.limited(5)).health
        assert health.cooling_for_ms(START + 1_000) == 4_000
        assert health.cooling_for_ms(START - 3_600_000) == 0
        health = fleet.at(-3_600).send(self.limited(7)).health
        assert health.cooling_for_ms(START - 3_600_000) == 7_000


class TestTamperedRecords:
    """What a hand, a lost write or another version may leave behind."""

    def test_a_restored_copy_replaces_what_stands_there(self, told):
        """Settings that the copy does not have are gone, and so is a cooldown that an operator ended."""
        fleet = told(replace(LENIENT, window=10.0, window_failure_rate_threshold=0.5, min_reporters=2))
        fleet.send(Result("openai", Outcome.RATE_LIMITED, 0.0, 1, cooldown_ms=300_000.0))
        copy = replace(fleet.store.snapshot().records["openai"], config=LENIENT, generation=5, cooldown_until_ms=0)
        reply = fleet.store.restore(OPENAI, copy)
        stored = fleet.store.snapshot().records["openai"]
        assert reply.status == "created"
        assert (stored.config, stored.cooldown_until_ms, stored.generation) == (LENIENT, 0, 5)
        assert replace(stored, version=0) == replace(reply.health, version=0)

    @pytest.mark.parametrize(
        "fields",
        [
            {"window_ms": "0"},
            {"slow_call_duration_threshold_ms": "0"},
            {"open_timeout_ms": "60000", "open_timeout_max_ms": "20000"},
            {"window_calls": "1 2 3 4 5 6 7 8 9 10 11 12", "window_failures": "nonsense"},
            {"times_opened": "200000000"},
        ],
    )
    def test_settings_that_do_not_fit_together_turn_their_rule_off(self, told, fields, redis_client):
        """The record stays readable, and the other rules go on."""
        config = replace(
            TestBackoff.CONFIG, window=10.0, window_failure_rate_threshold=1.0, slow_call_duration_threshold=1.0,
            slow_call_rate_threshold=0.5, open_timeout_max=20.0,
        )  # fmt: skip
        fleet = told(config)
        redis_client.hset(fleet.store.keys.health("openai"), mapping=fields)
        before = fleet.store.snapshot().records["openai"]
        mirrored, _ = circuit.fold(before, result("openai", False), fleet.store.now_ms)
        health = fleet.says(False).health
        assert (health.circuit_state, health.open_reason) == (CircuitState.OPEN, "consecutive_failures")
        assert replace(mirrored, version=0) == replace(health, version=0)

    @pytest.mark.parametrize("lost", ["last_result_ms", "version", "last_failure"])
    def test_a_field_that_is_missing_is_put_back(self, told, lost, redis_client):
        """Of an older version, or taken away; whatever notes stand beside it."""
        fleet = told(CircuitConfig())
        key = fleet.store.keys.health("openai")
        redis_client.hset(key, mapping={"note": "x", "more": "1"})
        redis_client.hdel(key, lost)
        fleet.store.update("openai", {"weight": "2"})
        assert fleet.says(True).health.weight == 2
        assert redis_client.hexists(key, lost)

    def test_what_a_hand_adds_disturbs_nothing(self, told, redis_client):
        """A note, or a field with a name that the scripts use themselves."""
        fleet = told(CircuitConfig())
        notes = {"note": "call the vendor", "window": "7", "stored": "x", "transitions": "3", "2024": "5"}
        redis_client.hset(fleet.store.keys.health("openai"), mapping=notes)
        assert fleet.says(*[False] * 5).health.open_reason == "consecutive_failures"
        stored = redis_client.hgetall(fleet.store.keys.health("openai"))
        assert {text(name): text(value) for name, value in stored.items()}.items() >= notes.items()

    @pytest.mark.parametrize("value", ["inf", "1e999", "nan"])
    def test_a_number_that_is_none_is_refused(self, told, value, redis_client):
        """By name; it stops nothing else."""
        fleet = told(CircuitConfig())
        redis_client.hset(fleet.store.keys.health("openai"), "cooldown_until_ms", value)
        assert "openai" in fleet.store.snapshot().unreadable

    def test_settings_of_today_bound_an_opening(self, told):
        """Backoff that was turned off, or bounded, does not last on."""
        fleet = told(replace(TestBackoff.CONFIG, open_timeout_max=80.0))
        for _ in range(4):
            health = fleet.says(False).health
            fleet.at((fleet.store.now_ms - START) / 1000 + health.due_in_ms(health.last_state_change_ms) / 1000)
            fleet.half_open()
        health = fleet.says(False).health
        assert health.due_in_ms(fleet.store.now_ms) == 80_000
        calm = fleet.store.update("openai", replace(TestBackoff.CONFIG, open_timeout_multiplier=0.0).to_fields()).health
        assert calm.due_in_ms(fleet.store.now_ms) == 10_000
        assert fleet.at((fleet.store.now_ms - START) / 1000 + 10).half_open().circuit_state is CircuitState.HALF_OPEN


class TestLateWords:
    def test_a_word_too_late_is_no_complaint(self, told):
        """A failure of a call from before the opening does not make one failed trial call two replicas' word."""
        first, second, third = (told(TestReporters.CONFIG, f"gw{n}") for n in range(3))
        first.says(False, False, False)
        assert second.says(False).health.circuit_state is CircuitState.OPEN
        third.at(1).send(result("openai", False, generation=1))
        first.at(10).half_open()
        assert first.says(False).health.circuit_state is CircuitState.HALF_OPEN


def test_why_it_failed_is_in_the_record(told):
    """For people who look in; a failure without a word takes the last one away."""
    fleet = told(CircuitConfig())
    said = Result("openai", Outcome.FAILURE, 10.0, 1, reason="unauthorized")
    assert fleet.send(said).health.last_failure == "unauthorized"
    assert fleet.says(True).health.last_failure == "unauthorized"
    assert fleet.says(False).health.last_failure == ""


def test_a_batch_of_everything(told):
    """Outcomes of all kinds, reasons and permits in one batch come to what one by one do."""
    fleet = told(CircuitConfig(consecutive_failure_limit=9))
    results = [
        Result("openai", Outcome.FAILURE, 5.0, 1, reason="http_503"),
        Result("openai", Outcome.FAILURE, 5.0, 1, reason="timeout"),
        Result("openai", Outcome.RATE_LIMITED, 0.0, 1, cooldown_ms=2_000.0),
        Result("openai", Outcome.IGNORED, 5.0, 1),
        Result("openai", Outcome.FAILURE, 5.0, 1),
    ]
    (reply,) = fleet.store.record([Batch("openai", 1, results)])
    assert (reply.applied, reply.health.consecutive_failures, reply.health.last_failure) == (5, 3, "")
    assert reply.health.cooldown_until_ms == START + 2_000


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"window_failure_rate_threshold": 0.5}, "window is 0"),
        ({"slow_call_duration_threshold": 1.0, "slow_call_rate_threshold": 0.5}, "window is 0"),
        ({"window": 10.0, "slow_call_duration_threshold": 1.0}, "give both"),
        ({"open_timeout_max": 1.0}, r"at least 30\.0"),
        ({"open_timeout_multiplier": 0.5}, "open_timeout_multiplier"),
        ({"open_timeout_jitter": 2.0}, "open_timeout_jitter"),
        ({"min_reporters": -1}, "min_reporters"),
        ({"minimum_calls": 1.5}, "minimum_calls"),
        ({"slow_start": -1.0}, "slow_start"),
        ({"window": True}, "window"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, match):
    """With the remedy, before anything is stored."""
    with pytest.raises(InvalidArgument, match=match):
        CircuitConfig(**settings)

"""What the page's JSON says of a provider: how it is, why, and until when."""

from dataclasses import replace

import pytest

from redis_router.circuit.config import CircuitConfig
from redis_router.circuit.overrides import FOR_EVER_MS, overridden
from redis_router.circuit.record import CircuitState, ProviderHealth
from redis_router.operate import facts
from redis_router.probe import Probe
from redis_router.store.messages import Spec

NOW = 1_800_000_000_000
WELL = ProviderHealth("openai", config=CircuitConfig(open_timeout=30.0), latency_ms=120.0, last_result_ms=NOW - 10)
OPEN = replace(
    WELL,
    circuit_state=CircuitState.OPEN,
    open_reason="consecutive_failures",
    last_failure="http_503",
    available=False,
    unavailable_reason="circuit",
    last_state_change_ms=NOW - 12_000,
)
SLOW = replace(WELL, samples=20, usual_latency_ms=100.0, latency_deviation_ms=25.0, latency_ms=301.0)
HALF = replace(OPEN, circuit_state=CircuitState.HALF_OPEN)
PROBED = replace(WELL, available=False, unavailable_reason="probe", probe_result="HTTP 503")
OUT = replace(WELL, available=False, unavailable_reason="operator")
COOLING = replace(WELL, cooldown_until_ms=NOW + 20_000, cooldown_ms=30_000)
SPEC = Spec(("gpt-4o",), Probe("https://example.com/health"), "openai")


def said(health, word, weight=0.0, lasts_ms=60_000, reason="slow"):
    return overridden(health, word, lasts_ms, weight, "alice@ops-1", reason, NOW)[0]


def texts(health, spec=SPEC):
    return [(each["what"], each["text"], each["until_ms"]) for each in facts.why(health, spec, NOW)]


@pytest.mark.parametrize(
    ("health", "level"),
    [
        (WELL, "ok"),
        (OPEN, "down"),
        (PROBED, "down"),
        (HALF, "trouble"),
        (COOLING, "trouble"),
        (replace(WELL, overdue=1), "trouble"),
        (SLOW, "trouble"),
        (replace(SLOW, latency_ms=299.0), "ok"),
        (replace(SLOW, samples=7), "ok"),
        (replace(WELL, failure_rate=0.2), "trouble"),
        (OUT, "held"),
        (replace(WELL, weight=0.0), "held"),
        (said(WELL, "drain"), "held"),
        (said(OPEN, "drain"), "held"),
        (said(OPEN, "force_closed"), "trouble"),
        (said(WELL, "observe"), "ok"),
        (said(WELL, "weight", weight=0.0), "held"),
        (said(WELL, "weight", weight=0.5), "ok"),
    ],
)
def test_how_a_provider_is(health, level):
    """Down: no calls against our will. Held: an operator keeps them away. Trouble: it may get worse."""
    assert facts.level(health, NOW) == level


@pytest.mark.parametrize(
    ("health", "told"),
    [
        (WELL, []),
        (OPEN, [("circuit", "circuit open: consecutive_failures, last failure http_503", NOW + 18_000)]),
        (HALF, [("circuit", "half-open after consecutive_failures: trial calls only", None)]),
        (PROBED, [("probe", "probe fails: HTTP 503", None)]),
        (replace(WELL, probe_result="cannot: no host"), [("probe", "probe cannot be made: no host", None)]),
        (OUT, [("out_of_service", "taken out of service by an operator, until ready", None)]),
        (COOLING, [("cooldown", "rate limited", NOW + 20_000)]),
        (said(WELL, "drain"), [("override", "drain by alice@ops-1: slow", NOW + 60_000)]),
        (said(WELL, "drain", lasts_ms=0, reason=""), [("override", "drain by alice@ops-1", None)]),
        (said(WELL, "weight", 0.2), [("weight", "weight 0.2 by alice@ops-1: slow", NOW + 60_000)]),
        (replace(WELL, weight=0.0), [("weight", "weight 0: no calls", None)]),
        (replace(WELL, overdue=2), [("overdue", "2 calls overdue", None)]),
        (SLOW, [("slow", "slow: 301 ms, usually 100 ms", None)]),
        (replace(WELL, failure_rate=0.25), [("failing", "25% of its calls fail", None)]),
    ],
)
def test_why_and_until_when(health, told):
    """Nothing is said of one that is well."""
    assert texts(health) == told


def test_a_provider_that_its_probe_holds_back_has_no_moment():
    """Its time is over: the next try waits for the probe."""
    late = replace(OPEN, last_state_change_ms=NOW - 31_000, probe_result="HTTP 503")
    assert next(each for each in texts(late) if each[0] == "circuit")[2] is None
    assert facts.provider(late, SPEC, NOW)["next_try"] == "after_probe"
    assert facts.provider(replace(late, probe_result="passes"), SPEC, NOW)["next_try"] == "due"


@pytest.mark.parametrize("health", [WELL, HALF, PROBED, OUT])
def test_what_did_not_change_reads_the_same_a_second_later(health):
    """So that nothing is sent of it."""
    assert not facts.depends_on_time(health)
    assert facts.provider(health, SPEC, NOW) == facts.provider(health, SPEC, NOW + 1000)


@pytest.mark.parametrize("health", [OPEN, COOLING, said(WELL, "drain"), said(WELL, "weight", 0.5)])
def test_moments_do_not_move_with_the_clock(health):
    """They are on Redis's clock, and whoever shows them counts down."""
    assert facts.depends_on_time(health)
    assert facts.provider(health, SPEC, NOW) == facts.provider(health, SPEC, NOW + 1000)


def test_an_end_is_none_for_ever():
    """No moment of the year 9999."""
    found = facts.provider(said(WELL, "drain", lasts_ms=0), SPEC, NOW)
    assert found["override"] == {"word": "drain", "until_ms": None, "by": "alice@ops-1", "reason": "slow"}
    assert said(WELL, "drain", lasts_ms=0).override_until_ms == FOR_EVER_MS


def test_the_worst_comes_first():
    """Then the one that fails most, then by name."""
    names = [("a", WELL), ("b", OPEN), ("c", said(WELL, "drain")), ("d", HALF), ("e", replace(WELL, failure_rate=0.05))]
    made = [facts.provider(replace(health, name=name), SPEC, NOW) for name, health in names]
    assert [each["name"] for each in facts.ranked(made)] == ["b", "d", "c", "e", "a"]


@pytest.mark.parametrize("health", [WELL, OPEN, HALF, PROBED, OUT, COOLING])
def test_available_says_what_status_says(health):
    """Without the seconds, which stand beside it."""
    from redis_router.operate import words

    shown = facts.provider(health, SPEC, NOW)["available"]
    assert words.available(health, NOW).startswith(shown.removesuffix(")"))

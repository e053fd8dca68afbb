"""The pure decision: whoever is chosen may be called, and for everybody else there is a reason."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from redis_router import CircuitState, InvalidArgument, NoProviderAvailable, Provider, ProviderHealth, Router
from redis_router.routing.choose import Chosen, Nobody, Rules, another_is_left, choose, fallbacks
from redis_router.routing.refusal import Unavailable, UnknownModel
from redis_router.routing.strategies import STRATEGIES, best_first, resolve
from redis_router.routing.table import Tables
from tests.support.fleet import end_rate_limit

NOW_MS, NOW = 1_800_000_000_000.0, 5_000.0
NAMES = ("a", "b", "c", "d")
MODELS = ("m", "n")


def rules(strategy="round_robin", *, least_bad=False):
    """With both clocks standing still."""
    return Rules(best_first(strategy), lambda: NOW_MS, least_bad, lambda: NOW)


def built(records, strategy="round_robin", models=("m",), limited=(), **options):
    """A table of these records, each serving all the models; `limited` were told of a rate limit here."""
    tables = Tables(resolve(strategy), lambda: NOW_MS, **options)
    table = tables.build([Provider(health.name, models) for health in records], {h.name: h for h in records})
    for name in limited:
        table.candidates[name].here.limited_until = NOW + 7.0
    return table


STATES = {
    "fine": {},
    "open": {"circuit_state": CircuitState.OPEN, "available": False, "unavailable_reason": "circuit"},
    "half-open": {"circuit_state": CircuitState.HALF_OPEN, "available": False, "unavailable_reason": "circuit"},
    "drained": {"available": False, "unavailable_reason": "operator"},
    "drained while half-open": {
        "circuit_state": CircuitState.HALF_OPEN,
        "available": False,
        "unavailable_reason": "operator",
    },
    "without weight": {"weight": 0.0},
    "cooling": {"cooldown_until_ms": int(NOW_MS) + 3_000, "cooldown_ms": 5_000},
    "cooling while half-open": {
        "circuit_state": CircuitState.HALF_OPEN,
        "cooldown_until_ms": int(NOW_MS) + 3_000,
        "cooldown_ms": 5_000,
    },
    "probe fails": {"available": False, "unavailable_reason": "probe"},
}
EXPECTED = {
    "open": Unavailable.OPEN,
    "half-open": Unavailable.HALF_OPEN,
    "drained": Unavailable.OPERATOR,
    "drained while half-open": Unavailable.OPERATOR,
    "without weight": Unavailable.NO_WEIGHT,
    "cooling": Unavailable.COOLING,
    "cooling while half-open": Unavailable.COOLING,
    "probe fails": Unavailable.OUT_OF_SERVICE,
}


def record(name, state):
    """A record in one of the states above, opened a moment ago."""
    return ProviderHealth(name, last_state_change_ms=int(NOW_MS) - 1_000, **STATES[state])


NAME_SETS = st.frozensets(st.sampled_from(NAMES))
WORLDS = st.fixed_dictionaries(
    {
        "states": st.fixed_dictionaries({name: st.sampled_from(sorted(STATES)) for name in NAMES}),
        "strategy": st.sampled_from(sorted(STRATEGIES)),
        "limited": NAME_SETS,
        "tried": st.frozensets(st.tuples(st.sampled_from(MODELS), st.sampled_from(NAMES))),
        "excluded": NAME_SETS,
        "without_permit": NAME_SETS,
        "asked": st.sampled_from([("m",), ("m", "n"), ("n", "m")]),
    }
)


@given(WORLDS)
@settings(max_examples=400, deadline=None)
def test_who_is_chosen_may_be_called_and_everybody_else_has_a_reason(world):
    """Never one excluded, tried for that model, open, drained or cooling; on trial only where there is a permit."""
    states, asked = world["states"], world["asked"]
    table = built([record(n, state) for n, state in states.items()], world["strategy"], MODELS, world["limited"])
    given_to_it = {key: world[key] for key in ("tried", "excluded", "without_permit")}
    found = choose(table, asked, rules(world["strategy"]), **given_to_it)

    def may_be_called(model, name):
        barred = name in world["excluded"] or (model, name) in world["tried"]
        trial = states[name] == "half-open" and name not in world["without_permit"]
        ordinary = states[name] == "fine" and name not in world["limited"]
        return not barred and (trial or ordinary)

    callable_now = {(model, name) for model in asked for name in NAMES if may_be_called(model, name)}
    if isinstance(found, Chosen):
        name = found.candidate.health.name
        assert (found.model, name) in callable_now
        assert found.model == next(model for model in asked if any(m == model for m, _ in callable_now))
        assert found.on_trial == (states[name] == "half-open")
    else:
        assert callable_now == set()
        assert [refusal.model for refusal in found.refusals] == list(asked)
        for refusal in found.refusals:
            assert set(refusal.reasons) == set(NAMES)
            for name, reason in refusal.reasons.items():
                assert reason.why is expected_reason(world, refusal.model, name)


def expected_reason(world, model, name):
    """Why this one is not called: what the caller says comes first, then the state, then what is known here alone."""
    if name in world["excluded"]:
        return Unavailable.EXCLUDED
    if (model, name) in world["tried"]:
        return Unavailable.TRIED
    state = world["states"][name]
    limited = name in world["limited"] and state in ("fine", "half-open", "probe fails")
    return Unavailable.COOLING if limited or state == "fine" else EXPECTED[state]


@given(WORLDS)
@settings(max_examples=200, deadline=None)
def test_a_choice_changes_nothing(world):
    """Neither the table nor what this replica knows: asking twice finds the same set of providers."""
    states = world["states"]
    table = built([record(n, state) for n, state in states.items()], world["strategy"], MODELS, world["limited"])
    before = {name: (dict(c.here.in_flight), c.here.limited_until) for name, c in table.candidates.items()}
    for _ in range(3):
        choose(table, world["asked"], rules(), tried=world["tried"], excluded=world["excluded"])
        another_is_left(table, world["asked"], rules(), world["tried"])
        fallbacks(table, "m", "a", rules())
    after = {name: (dict(c.here.in_flight), c.here.limited_until) for name, c in table.candidates.items()}
    assert before == after


@given(WORLDS)
@settings(max_examples=200, deadline=None)
def test_another_is_left_where_the_next_choice_finds_one_without_a_permit(world):
    """What an attempt's share of the deadline goes by is what the next choice then does."""
    states, asked, tried = world["states"], world["asked"], world["tried"]
    table = built([record(n, state) for n, state in states.items()], world["strategy"], MODELS, world["limited"])
    found = choose(table, asked, rules(), tried=tried, without_permit=NAMES)
    assert another_is_left(table, asked, rules(), tried) is isinstance(found, Chosen)


def test_a_trial_goes_first_and_is_wanted_where_there_is_no_permit():
    """Else a half-open circuit would get no call while its peers are well."""
    table = built([record("a", "fine"), record("b", "half-open")])
    trial = choose(table, ("m",), rules())
    assert (trial.candidate.health.name, trial.on_trial, trial.demand) == ("b", True, ())
    ordinary = choose(table, ("m",), rules(), without_permit=("b",))
    assert (ordinary.candidate.health.name, ordinary.on_trial, ordinary.demand) == ("a", False, ("m",))


def test_demand_goes_by_the_name_under_which_the_model_is_served():
    """A made-up model of a wildcard leaves no trace: it is "*" that is in demand."""
    table = built([record("a", "half-open")], models=("*",))
    found = choose(table, ("made up",), rules(), without_permit=("a",))
    assert isinstance(found, Nobody)
    assert found.demand == ("*",)


def test_a_fallback_model_begins_with_who_was_not_tried_at_all():
    """Who failed for one model most likely fails for the other; it comes last, not never."""
    table = built([record("a", "fine"), record("b", "fine")], models=MODELS)
    tried = [("m", "a"), ("m", "b")]
    assert choose(table, MODELS, rules(), tried=tried[:1]).model == "m"
    again = {choose(table, MODELS, rules(), tried=tried).candidate.health.name for _ in range(4)}
    assert again == {"a", "b"}
    last = choose(table, MODELS, rules(), tried=[*tried, ("n", "a")])
    assert (last.model, last.candidate.health.name) == ("n", "b")
    only = built([record("a", "fine"), record("b", "fine"), record("c", "open")], models=MODELS)
    first = {choose(only, ("n",), rules(), tried=[("m", "a")]).candidate.health.name for _ in range(4)}
    assert first == {"b"}


def test_the_least_bad_is_called_although_it_is_limited_here():
    """`when_all_open="least_bad"`: rather a provider that wants no calls than none."""
    table = built([record("a", "fine")], limited=("a",), least_bad=True)
    assert isinstance(choose(table, ("m",), rules()), Nobody)
    assert choose(table, ("m",), rules(least_bad=True)).candidate.health.name == "a"


def test_fallbacks_are_those_that_may_be_called_best_first():
    """Without the primary; nobody on trial, as a trial needs a permit; nobody that is limited."""
    records = [
        ProviderHealth("slow", latency_ms=90.0),
        ProviderHealth("fast", latency_ms=30.0),
        ProviderHealth("mid", latency_ms=60.0),
        ProviderHealth("limited", latency_ms=10.0),
        record("b", "half-open"),
        record("c", "open"),
    ]
    table = built(records, "latency", limited=("limited",))
    order = [candidate.health.name for candidate in fallbacks(table, "m", "mid", rules("latency"))]
    assert order == ["fast", "slow"]
    assert fallbacks(table, "unknown", None, rules()) == []


def test_an_unknown_model_is_refused_with_those_that_are_known():
    """The sentence lists them; by provider it says that it does not serve the model."""
    found = choose(built([record("a", "fine")], models=MODELS), ("x",), rules())
    (refusal,) = found.refusals
    assert refusal.why() == (
        {"a": "model unknown: it does not serve it"},
        None,
        "no provider serves it; registered: m, n",
    )
    assert choose(built([]), ("x",), rules()).refusals[0].why()[2].endswith("no provider is registered")
    assert isinstance(refusal, UnknownModel)
    assert found.demand == ()


@pytest.mark.parametrize("model", [3, None, ["m"]])
def test_a_model_that_is_no_string_is_refused(model):
    """By name and value."""
    with pytest.raises(InvalidArgument, match="model is"):
        choose(built([record("a", "fine")]), (model,), rules())


SENTENCES = {
    "open": ("circuit open until 08:00:29Z, in 29.0 s (consecutive_failures; last failure: http_503)", 29.0),
    "half-open": ("circuit half-open, its trial calls are taken", None),
    "drained": ("drained: taken out of service by an operator", None),
    "without weight": ("drained: its weight is 0", None),
    "cooling": ("cooling until 08:00:03Z, in 3.0 s (rate limited)", 3.0),
    "probe fails": ("unavailable (probe)", None),
}


@pytest.mark.parametrize("state", SENTENCES)
def test_the_sentences_that_users_read(state):
    """Word for word, with the seconds until a call may succeed."""
    health = replace(record("a", state), open_reason="consecutive_failures", last_failure="http_503")
    found = choose(built([health]), ("m",), rules(), without_permit=("a",))
    (refusal,) = found.refusals
    reason = refusal.reasons["a"]
    assert (reason.text, reason.back_in) == SENTENCES[state]
    assert refusal.why() == ({"a": reason.text}, reason.back_in, "")


def test_of_several_the_first_to_be_back_counts():
    """`retry_after` is of the one that is back soonest, over all models."""
    table = built([record("a", "open"), record("b", "cooling"), record("c", "drained")], models=MODELS)
    found = choose(table, MODELS, rules())
    errors = [NoProviderAvailable.because(refusal.model, refusal.why) for refusal in found.refusals]
    assert NoProviderAvailable.merged(errors).retry_after == 3.0


@pytest.fixture
def alone():
    """A router that was not started: it chooses in memory, between two in turn."""
    router = Router("redis://127.0.0.1:1", strategy="round_robin", registry=CollectorRegistry())
    for name in ("a", "b"):
        router.register_provider(Provider(name, ("m",)))
    yield router
    router.close()


def test_a_rate_limit_that_is_over_keeps_nobody_from_its_turn(alone):
    """It was told of here alone, and nobody else clears it: the choice itself must."""
    alone.select_provider("m")
    end_rate_limit(alone, "a")
    assert {alone.select_provider("m").name for _ in range(4)} == {"a", "b"}
    end_rate_limit(alone, "a")
    assert {alone.attempt("m").provider.name for _ in range(4)} == {"a", "b"}

"""Who serves which model, in which state, and that strangers' model names leave no trace."""

import pytest

from redis_router import CircuitConfig, CircuitState, Provider, ProviderHealth
from redis_router.routing.strategies import resolve
from redis_router.routing.table import Tables, changes_in_ms

A, B, ANY = Provider("a", ("m", "n")), Provider("b", ("m",)), Provider("any", ("*",))
TABLES = Tables(resolve("round_robin"), now_ms=lambda: 1_000.0)


def record(name, state=CircuitState.CLOSED, **fields):
    return ProviderHealth(name, state, **fields)


def serving(table, model):
    """Names that may be picked without a permit."""
    selector = table.find(model)
    return {selector.pick().provider.name for _ in range(20)} if selector and selector.pick else set()


def test_routes_by_model():
    """Named models, and "*" for all, the unknown ones included."""
    table = TABLES.build([A, B, ANY], {})
    assert serving(table, "m") == {"a", "b", "any"}
    assert serving(table, "n") == {"a", "any"}
    assert serving(table, "what a user made up") == {"any"}


def test_an_unknown_model_is_nobodys_without_a_wildcard():
    """None, so that the router can say which models there are."""
    assert TABLES.build([A, B], {}).find("x") is None


def test_model_names_leave_no_trace():
    """I-10: ten thousand made-up names, and the table is as large as before."""
    table = TABLES.build([A, ANY], {})
    before = len(table.selectors)
    for number in range(10_000):
        table.find(f"made-up-{number}")
    assert len(table.selectors) == before


def test_states_decide():
    """Open: never. Half-open: on trial, `available` or not. Closed: while available."""
    table = TABLES.build(
        [A, B, ANY],
        {
            "a": record("a", CircuitState.OPEN, available=False, unavailable_reason="circuit"),
            "b": record("b", CircuitState.HALF_OPEN, available=False, unavailable_reason="circuit"),
            "any": record("any", available=False, unavailable_reason="probe"),
        },
    )
    selector = table.find("m")
    assert selector.pick is None
    assert [c.provider.name for c in selector.on_trial] == ["b"]


def test_an_operator_keeps_a_half_open_provider_out():
    """Not even trial calls."""
    out = record("b", CircuitState.HALF_OPEN, available=False, unavailable_reason="operator")
    assert TABLES.build([A, B], {"b": out}).find("m").on_trial == ()


def test_an_update_makes_anew_only_what_it_touches():
    """B's record changed: "m" is remade, "n" is the same object."""
    before = TABLES.build([A, B], {})
    after = TABLES.updated(before, [record("b", CircuitState.OPEN)])
    assert serving(after, "m") == {"a"}
    assert after.selectors["n"] is before.selectors["n"]
    assert serving(before, "m") == {"a", "b"}  # whoever holds the old table is not disturbed


def test_a_wildcards_update_touches_every_model():
    """It serves them all."""
    after = TABLES.updated(TABLES.build([A, ANY], {}), [record("any", CircuitState.OPEN)])
    assert serving(after, "m") == {"a"}
    assert after.find("unheard of").pick is None


def test_a_record_of_a_stranger_changes_nothing():
    """Another gateway's provider on the same channel."""
    before = TABLES.build([A], {})
    assert TABLES.updated(before, [record("zzz")]) is before


def test_a_users_strategy_that_returns_no_function_does_not_either(caplog):
    """It would fail in every request."""

    class Wrong:
        def prepare(self, model, candidates):
            return candidates[0]

    table = Tables(Wrong(), lambda: 0.0).build([Provider("p", ("m",))], {})
    assert table.find("m").pick().provider.name == "p"
    assert "must return a function" in caplog.text


def test_a_users_strategy_that_fails_does_not_stop_the_news():
    """Round robin stands in, and the log says so."""

    class Broken:
        def prepare(self, model, candidates):
            raise RuntimeError("no idea")

    assert serving(Tables(Broken(), lambda: 0.0).build([A, B], {}), "m") == {"a", "b"}


class Clock:
    """Redis's clock, in ms, as the test has it."""

    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


def test_who_cools_is_not_called_until_it_is_over():
    """Neither in closed nor, with a permit, in half-open."""
    clock = Clock(1_000)
    tables = Tables(resolve("round_robin"), clock)
    records = {
        "a": record("a", cooldown_until_ms=5_000, cooldown_ms=9_000),
        "b": record("b", CircuitState.HALF_OPEN, available=False, cooldown_until_ms=5_000, cooldown_ms=9_000),
    }
    before = tables.build([A, B], records)
    assert before.find("m").pick is None
    assert before.find("m").on_trial == ()
    clock.now = 5_000
    after = tables.updated(before, records.values())
    assert serving(after, "m") == {"a"}
    assert [c.provider.name for c in after.find("m").on_trial] == ["b"]


def test_slow_start_grows_a_providers_share():
    """Of the calls that the strategy would give it: a tenth at first, half at half time, then all."""
    clock = Clock(100_000)
    tables = Tables(resolve("round_robin"), clock)
    config = CircuitConfig(slow_start=10.0)
    back = record("a", config=config, last_state_change_ms=100_000, generation=4)
    table = tables.build([A, B], {"a": back})

    def share():
        pick = tables.updated(table, [back]).find("m").pick
        return sum(pick().provider.name == "a" for _ in range(4_000)) / 2_000

    assert changes_in_ms(back, 100_000.0) == 250.0
    assert changes_in_ms(back, 110_000.0) is None
    for now, expected in ((100_000, 0.1), (105_000, 0.5), (110_000, 1.0), (500_000, 1.0)):
        clock.now = now
        assert abs(share() - expected) < 6 * (expected * (1 - expected) / 2_000) ** 0.5 + 1e-9


@pytest.mark.parametrize("behind", [-500, -1, 0, 1, 500])
@pytest.mark.parametrize("slow_start", [0.0, 10.0])
def test_slow_start_bears_a_clock_that_is_off(behind, slow_start):
    """A circuit that closed in what is the future here: its ramp begins; without a ramp it is nothing special."""
    tables = Tables(resolve("round_robin"), lambda: 100_000.0 - behind)
    back = record("a", config=CircuitConfig(slow_start=slow_start), last_state_change_ms=100_000, generation=4)
    pick = tables.build([A, B], {"a": back}).find("m").pick
    times = sum(pick().provider.name == "a" for _ in range(400))
    assert (times < 100) if slow_start else (times == 200)
    assert changes_in_ms(back, 100_000.0 - behind) == (250.0 if slow_start else None)


def test_slow_start_leaves_nobody_out():
    """Alone, or all of them new: the calls must go somewhere."""
    tables = Tables(resolve("latency"), lambda: 100_000.0)
    new = [record(n, config=CircuitConfig(slow_start=10.0), last_state_change_ms=100_000) for n in ("a", "b")]
    assert serving(tables.build([A], {"a": new[0]}), "m") == {"a"}
    assert serving(tables.build([A, B], {h.name: h for h in new}), "m") == {"a", "b"}


def test_a_new_provider_needs_no_slow_start():
    """Only a circuit that closed does."""
    tables = Tables(resolve("round_robin"), lambda: 100.0)
    config = CircuitConfig(slow_start=10.0)
    table = tables.build([A, B], {"a": record("a", config=config)})
    assert [table.find("m").pick().provider.name for _ in range(100)].count("a") == 50


OUT = {"available": False, "unavailable_reason": "circuit", "last_state_change_ms": 1_000}


def kept(tables, *records, providers=(A, B, ANY)):
    """Names in play, and the generations that their calls carry."""
    found = tables.build(providers, {h.name: h for h in records}).find("m")
    return {c.provider.name: c.health.generation for c in found.routable}


def test_the_least_bad_stays_where_all_are_out():
    """The lowest failure rate; a failing probe or a rate limit is worse; an operator's word is the last."""
    tables = Tables(resolve("latency"), lambda: 2_000.0, least_bad=True)
    bad = record("a", CircuitState.OPEN, failure_rate=0.9, generation=3, **OUT)
    better = record("b", CircuitState.OPEN, failure_rate=0.4, generation=3, **OUT)
    probe = record("any", available=False, unavailable_reason="probe")
    drained = record("b", available=False, unavailable_reason="operator")
    cooling = record("b", cooldown_until_ms=9_000, cooldown_ms=9_000)
    assert kept(tables, bad, better, probe) == {"b": 0}
    assert kept(tables, bad, drained, probe) == {"a": 0}
    assert kept(tables, bad, cooling, probe) == {"a": 0}
    assert kept(tables, cooling, providers=(B,)) == {"b": 0}
    assert kept(tables, drained, providers=(B,)) == {}
    assert kept(tables, bad, better) == {"any": 1}


def test_only_so_many_are_ejected():
    """Of three a third: one may be out; the least bad of two stays in play beside the healthy one."""
    tables = Tables(resolve("latency"), lambda: 2_000.0, max_ejection_percent=34.0)
    bad = record("a", CircuitState.OPEN, failure_rate=0.9, **OUT)
    better = record("b", CircuitState.HALF_OPEN, failure_rate=0.4, **OUT)
    assert kept(tables, bad) == {"b": 1, "any": 1}
    assert kept(tables, bad, better) == {"b": 0, "any": 1}
    assert kept(Tables(resolve("latency"), lambda: 0.0, max_ejection_percent=0.0), bad) == {"a": 0, "b": 1, "any": 1}


def test_calls_in_flight_outlive_the_table():
    """Whatever is made anew, the count goes on."""
    before = TABLES.build([A, B], {})
    before.candidates["a"].in_flight[1] = 0.0
    updated = TABLES.updated(before, [record("a", latency_ms=5.0)])
    rebuilt = TABLES.build([A, B, ANY], {}, updated)
    assert rebuilt.candidates["a"].in_flight is before.candidates["a"].in_flight


def test_news_of_a_part_touch_its_model_alone():
    """The other part was taken out here: it is no reason to miss the news."""
    both = Provider("p", ("m", "n"), circuit_per_model=True)
    table = TABLES.build(both.parts()[:1], {})
    after = TABLES.updated(table, [record("p/m", CircuitState.OPEN), record("p/n", CircuitState.OPEN)])
    assert after.find("m").pick is None


def test_a_circuit_for_each_model():
    """One provider, two records; the whole is what callers get."""
    both = Provider("p", ("m", "n"), circuit_per_model=True)
    table = TABLES.build(both.parts(), {"p/m": record("p/m", CircuitState.OPEN)})
    assert table.find("m").pick is None
    assert table.find("n").pick().provider is both
    assert table.serving == {"m": ("p/m",), "n": ("p/n",)}

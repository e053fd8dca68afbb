"""Who serves which model, in which state, and that strangers' model names leave no trace."""

from redis_router import CircuitState, Provider, ProviderHealth
from redis_router.strategies import resolve
from redis_router.table import Tables

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

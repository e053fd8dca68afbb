"""What a replica routes by: what changes at once, what waits, what is told, and what a log handler may do."""

from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from redis_router import CircuitConfig, CircuitState, Outcome, Provider, ProviderHealth
from redis_router.circuit.outcome import Result
from redis_router.replica import view as views
from redis_router.replica.served import Served
from redis_router.replica.view import View
from redis_router.replica.waiters import Waiters
from redis_router.routing.strategies import resolve
from redis_router.routing.table import Tables
from redis_router.telemetry.metrics import Metrics
from tests.support import metric
from tests.support.fleet import waiting_log_handler

OPEN = {"circuit_state": CircuitState.OPEN, "available": False, "unavailable_reason": "circuit"}
TABLES = Tables(resolve("latency"), now_ms=lambda: 1_000.0)


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def told():
    return []


def new_view(registry, tables=TABLES, told=None, waiters=None):
    listener = SimpleNamespace(tell=[].append if told is None else told.append)
    return View(tables, Metrics.of(registry), listener, waiters or Waiters(), Served(), "here")


@pytest.fixture
def view(registry, told):
    """With the providers a and b, settled a moment ago."""
    made = new_view(registry, told=told)
    for name in ("a", "b"):
        made.add([Provider(name, ("m",))], CircuitConfig())
        made.take(ProviderHealth(name, latency_ms=100.0, version=1), first=True)
    made.settle(now=True)
    made.calls = False
    return made


def choices(view):
    return {view.table.picks["m"]().provider.name for _ in range(10)}


def test_what_moves_calls_is_in_the_table_at_once(view, told):
    """And told once, when the table shows it."""
    view.take(ProviderHealth("a", latency_ms=1.0, generation=2, version=2, **OPEN), first=False)
    assert choices(view) == {"b"}
    assert [(change.provider, change.to_state, change.generation) for change in told] == [("a", "open", 2)]


def test_averages_wait_and_travel_together(view, monkeypatch):
    """One wake-up for all of them, and one table."""
    monkeypatch.setattr(view, "_settle_at", float("inf"))
    before = view.table
    view.take(ProviderHealth("a", latency_ms=50.0, version=2), first=False)
    assert view.calls
    view.calls = False
    view.take(ProviderHealth("b", latency_ms=10.0, version=2), first=False)
    assert view.table is before
    assert not view.calls
    view.settle(now=True)
    assert choices(view) == {"b"}
    assert view.unsettled_for() is None


def test_tables_of_averages_take_a_bounded_share_of_the_time(view, monkeypatch):
    """The longer one takes, the later the next."""
    clock = iter([0.0, 0.0, 100.0])  # one look at what is due, then before and after
    monkeypatch.setattr(views.time, "monotonic", lambda: next(clock))
    view._unsettled = {"a": ProviderHealth("a", version=3)}
    view.settle(now=True)
    assert view._settle_at == 100.0 / views.SETTLE_SHARE


def test_a_change_brings_the_averages_that_wait(view, monkeypatch):
    """A table is never older than what it was made from."""
    monkeypatch.setattr(view, "_settle_at", float("inf"))
    view.take(ProviderHealth("b", latency_ms=7.0, version=2), first=False)
    view.take(ProviderHealth("a", generation=2, version=2, **OPEN), first=False)
    assert view.table.candidates["b"].health.latency_ms == 7.0


def test_what_is_read_for_the_first_time_is_no_change(view, told):
    """A replica that joins an open circuit did not see it open."""
    view.add([Provider("c", ("m",))], CircuitConfig())
    view.take(ProviderHealth("c", generation=4, version=9, **OPEN), first=True)
    assert "c" not in choices(view)
    assert told == []


def test_alone_and_back(view, told, registry):
    """Its own breaker decides, the fleet's word waits, and is told where it differs in the end."""
    view.go_alone()
    view.take(ProviderHealth("b", generation=2, version=5, **OPEN), first=False)
    assert choices(view) == {"a", "b"}
    view.decide([Result("a", Outcome.FAILURE, 5.0, 1)] * 5)
    assert choices(view) == {"b"}
    assert metric(registry, "local_state_changes_total", provider="a", from_state="closed", to_state="open") == 1
    fleet = {"a": ProviderHealth("a", version=6), "b": ProviderHealth("b", generation=2, version=5, **OPEN)}
    view.rejoin(fleet)
    assert choices(view) == {"a"}
    assert [(change.provider, str(change.to_state)) for change in told] == [
        ("a", "open"),
        ("a", "closed"),
        ("b", "open"),
    ]


def test_a_removed_provider_is_shown_no_more(view, registry):
    """Not even by what was to be shown next."""
    view.take(ProviderHealth("a", latency_ms=5.0, version=2), first=False)
    assert view.remove("a")
    view.settle(now=True)
    assert registry.get_sample_value("redis_router_available", {"provider": "a"}) is None
    assert not view.remove("a")


def test_a_forked_child_forgets_what_its_parent_decided_alone(view, registry):
    """It begins with the fleet's records: nobody would tell it that the parent's word does not count."""
    view.go_alone()
    view.decide([Result("a", Outcome.FAILURE, 5.0, 1)] * 5)
    child = new_view(registry)
    child.take_over(view, {"a": ProviderHealth("a", version=1), "b": ProviderHealth("b", version=1)})
    assert choices(child) == {"a", "b"}


def test_a_log_handler_may_take_its_time_and_call_the_router(view):
    """No lock is held while it runs: another thread changes the view meanwhile."""
    with waiting_log_handler(lambda: view.add([Provider("c", ("m",))], CircuitConfig())):
        view.take(ProviderHealth("a", generation=2, version=2, **OPEN), first=False)
        view.go_alone()
        view.decide([Result("b", Outcome.FAILURE, 5.0, 1)] * 5)
        view.rejoin({})
        view.news.say()


def test_what_time_alone_changes_is_in_the_table_in_time(registry):
    """The end of a rate limit, and each step of slow start; then there is nothing left to look at."""
    now = [100_000.0]
    waiters = Waiters()
    view = new_view(registry, Tables(resolve("latency"), lambda: now[0]), waiters=waiters)
    for name in ("a", "b"):
        view.add([Provider(name, ("m",))], CircuitConfig())
    view.take(ProviderHealth("a", latency_ms=1.0, cooldown_until_ms=103_000, cooldown_ms=3_000, version=1), first=True)
    view.take(ProviderHealth("b", latency_ms=9.0, version=1), first=True)
    view.settle(now=True)
    assert choices(view) == {"b"}
    view._settle_at = 0.0  # however long the last table took
    assert view.unsettled_for() == 3.0
    now[0] = 103_000.0
    with waiters.in_thread(["m"]) as wait:
        assert view.unsettled_for() == 0.0
        view.settle(now=True)
        wait(5.0)  # rung already
    assert choices(view) == {"a"}
    assert view.unsettled_for() is None
    config = CircuitConfig(slow_start=8.0)
    view.take(
        ProviderHealth("a", latency_ms=1.0, generation=3, last_state_change_ms=103_000, config=config), first=True
    )
    view._settle_at = 0.0
    assert view.unsettled_for() == pytest.approx(0.2)
    now[0] = 111_000.0
    view.settle(now=True)
    assert view.unsettled_for() is None
    assert choices(view) == {"a"}


@pytest.mark.parametrize("behind", [-500, -5, 5, 500])
def test_a_cooldown_counts_though_the_clock_is_not_known_exactly(registry, behind):
    """An estimate that is behind sees more time left than there can be; it is no clock that was set back."""
    now = [100_000.0 - behind]
    view = new_view(registry, Tables(resolve("latency"), lambda: now[0]))
    for name in ("a", "b"):
        view.add([Provider(name, ("m",))], CircuitConfig())
    view.take(ProviderHealth("a", cooldown_until_ms=103_000, cooldown_ms=3_000, version=1), first=True)
    view.settle(now=True)
    assert choices(view) == {"b"}
    now[0] = 10_000.0  # and this one was
    view.settle(now=True)
    assert choices(view) == {"a", "b"}

"""The leader's bookkeeping: whose turn it is, one probe for all who have it, results in a row that begin anew."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from redis_router import Probe
from redis_router.runtime.alarm import Alarm
from redis_router.telemetry.metrics import Metrics
from redis_router.worker.fleet import Change, Fleet
from redis_router.worker.prober import ProbeOutcome, ProbeResult
from redis_router.worker.providers import Providers
from redis_router.worker.schedule import Schedule

URL = Probe("http://h/")
KEYS, MOMENTS = st.sampled_from("abcde"), st.integers(0, 9).map(float)
STEPS = st.one_of(
    st.tuples(st.just("put"), KEYS, MOMENTS),
    st.tuples(st.just("drop"), KEYS, st.just(0.0)),
    st.tuples(st.just("pop"), st.just(""), MOMENTS),
)


@given(st.lists(STEPS, max_size=300))
def test_a_schedule_is_a_dictionary_of_moments(steps):
    """Whatever is put, moved and dropped: the one that is due first comes first, and once."""
    schedule, moments = Schedule(), {}
    for verb, key, moment in steps:
        if verb == "put":
            schedule.put(key, moment)
            moments[key] = moment
        elif verb == "drop":
            schedule.drop(key)
            moments.pop(key, None)
        else:
            due = {each: at for each, at in moments.items() if at <= moment}
            popped = schedule.pop(moment)
            assert (popped is None) is (not due)
            if popped is not None:
                assert moments.pop(popped) == min(due.values())
        assert schedule.next_at == min(moments.values(), default=float("inf"))
        assert len(schedule._heap) <= 2 * len(moments) + 70


def test_one_probe_for_all_who_have_it():
    """Equal probes are one; it goes with the last who has it."""
    providers = Providers()
    first, second = providers.of("a", URL), providers.of("b", Probe("http://h/"))
    assert first.shared is second.shared
    assert list(first.shared.providers) == [first, second]
    third = providers.of("c", Probe("http://h/", headers={"A": "1"}))
    assert third.shared is not first.shared
    assert [providers.probes.pop(1.0), providers.probes.pop(1.0)] == [first.shared, third.shared]
    assert providers.probes.pop(1.0) is None
    providers.forget("a")
    providers.of("b", None)
    providers.forget("c")
    assert list(providers.all_probes()) == []


def test_another_probe_begins_another_row():
    """And the same one does not."""
    providers = Providers()
    providers.of("a", URL).count(False)
    assert providers.of("a", Probe("http://h/")).fails == 1
    assert providers.of("a", Probe("http://h/2")).fails == 0


def test_a_result_that_nobody_waits_for():
    """The provider was deregistered while its probe ran, or is back by then."""
    providers, passed = Providers(), ProbeResult(URL, 1.0, ProbeOutcome.PASSED)
    providers.begun(providers.of("a", URL).shared)
    providers.forget("a")
    assert providers.running == 1
    assert not providers.ended(passed, 9.0).providers
    assert (providers.running, providers.probes.next_at) == (0, float("inf"))
    providers.begun(providers.of("a", URL).shared)
    providers.forget("a")
    shared = providers.of("b", URL).shared
    assert providers.ended(passed, 9.0) is shared
    assert (providers.probes.next_at, shared.passed_since(1.0), shared.passed_since(1.5)) == (9.0, True, False)


def test_a_provider_that_is_gone_has_no_turn():
    """Neither its circuit nor its probe."""
    providers = Providers()
    provider = providers.of("a", URL)
    providers.circuits.put(provider, 1.0)
    providers.forget("a")
    assert (providers.circuits.pop(2.0), providers.probes.pop(2.0), provider.probe) == (None, None, None)


def test_who_was_not_asked_is_asked_in_its_turn():
    """Not over and over for a circuit that is due; and what passed before is no pass of now."""
    providers = Providers()
    shared = providers.of("a", URL).shared
    assert shared.is_worth_making(5.0)
    providers.begun(shared)
    providers.ended(ProbeResult(URL, 6.0, ProbeOutcome.NOT_ASKED, "no file"), 9.0)
    assert not shared.is_worth_making(7.0)
    assert not shared.passed_since(5.0)
    assert providers.probes.pop(9.0) is shared


def test_changes_remember_that_one_was_gone(backend):
    """However often it is noted after that."""
    fleet = Fleet(backend.store(), Metrics.of(CollectorRegistry()), 60.0, Alarm(), Alarm())
    fleet.forget("a")
    fleet.note("a")
    fleet.note("b")
    assert sorted([fleet.next_change(), fleet.next_change()], key=str) == [Change("a", True), Change("b", False)]
    assert fleet.next_change() is None
    fleet.forget("a")
    fleet.note("b")
    assert (fleet.drop_changes(), fleet.next_change()) == (["a"], None)

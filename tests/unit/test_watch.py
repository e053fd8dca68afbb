"""The leader's bookkeeping: whose turn it is, one question for all who have it, rows that begin anew."""

from hypothesis import given
from hypothesis import strategies as st

from redis_router import Probe
from redis_router.worker.prober import Said, Verdict
from redis_router.worker.schedule import Agenda, Changes, Watch

URL = Probe("http://h/")
KEYS, MOMENTS = st.sampled_from("abcde"), st.integers(0, 9).map(float)
STEPS = st.one_of(
    st.tuples(st.just("put"), KEYS, MOMENTS),
    st.tuples(st.just("drop"), KEYS, st.just(0.0)),
    st.tuples(st.just("pop"), st.just(""), MOMENTS),
)


@given(st.lists(STEPS, max_size=300))
def test_an_agenda_is_a_dictionary_of_moments(steps):
    """Whatever is put, moved and dropped: the one that is due first comes first, and once."""
    agenda, moments = Agenda(), {}
    for verb, key, moment in steps:
        if verb == "put":
            agenda.put(key, moment)
            moments[key] = moment
        elif verb == "drop":
            agenda.drop(key)
            moments.pop(key, None)
        else:
            due = {each: at for each, at in moments.items() if at <= moment}
            popped = agenda.pop(moment)
            assert (popped is None) is (not due)
            if popped is not None:
                assert moments.pop(popped) == min(due.values())
        assert agenda.next_at == min(moments.values(), default=float("inf"))
        assert len(agenda._heap) <= 2 * len(moments) + 70


def test_one_question_for_all_who_have_it():
    """Equal probes are one; it goes with the last who has it."""
    watch = Watch()
    first, second = watch.of("a", URL), watch.of("b", Probe("http://h/"))
    assert first.question is second.question
    assert list(first.question.providers) == ["a", "b"]
    assert watch.of("c", Probe("http://h/", headers={"A": "1"})).question is not first.question
    assert [watch.due(1.0), watch.due(1.0)] == [first.question, watch.providers["c"].question]
    assert watch.due(1.0) is None
    watch.forget("a")
    watch.of("b", None)
    watch.forget("c")
    assert list(watch.all_questions()) == []


def test_another_probe_begins_another_row():
    """And the same one does not."""
    watch = Watch()
    watch.of("a", URL).count(False)
    assert watch.of("a", Probe("http://h/")).fails == 1
    assert watch.of("a", Probe("http://h/2")).fails == 0


def test_a_verdict_that_nobody_waits_for():
    """The provider was deregistered while its probe ran, or is back by then."""
    watch, said = Watch(), Verdict(URL, 1.0, Said.PASSES)
    watch.begun(watch.of("a", URL).question)
    watch.forget("a")
    assert (watch.running, watch.ended(said, 9.0), watch.running, watch.next_at) == (1, None, 0, float("inf"))
    watch.begun(watch.of("a", URL).question)
    watch.forget("a")
    question = watch.of("b", URL).question
    assert watch.ended(said, 9.0) is question
    assert (watch.next_at, question.passed_since(1.0), question.passed_since(1.5)) == (9.0, True, False)


def test_who_was_not_asked_is_asked_in_its_turn():
    """Not over and over for a circuit that is due; and what passed before is no pass of now."""
    watch = Watch()
    question = watch.of("a", URL).question
    assert question.is_worth_asking(5.0)
    watch.begun(question)
    watch.ended(Verdict(URL, 6.0, Said.NOT_ASKED, "no file"), 9.0)
    assert not question.is_worth_asking(7.0)
    assert not question.passed_since(5.0)
    assert watch.due(9.0) is question


def test_changes_remember_that_one_was_gone():
    """However often it is noted after that."""
    changes = Changes()
    changes.note("a", gone=True)
    changes.note("a")
    changes.note("b")
    assert sorted([changes.pop(), changes.pop()]) == [("a", True), ("b", False)]
    assert not changes
    assert changes.pop() is None

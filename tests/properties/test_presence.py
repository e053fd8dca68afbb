"""Whatever stands among the words of replicas: it is read or passed over, compared and told, and nothing is raised."""

import json

from hypothesis import given
from hypothesis import strategies as st

from redis_router import ProviderHealth
from redis_router.cli.replicas import as_table
from redis_router.operate import fleet
from redis_router.replicas import compared, word_of
from redis_router.store.contract import Snapshot
from redis_router.store.presence import Presence, presence

NOW = 1_000_000
TEXTS = st.text(max_size=20)
COUNTS = st.integers(0, 10**9)
VIEWS = st.dictionaries(st.sampled_from(["a", "b", "c"]), TEXTS | st.just("closed 1") | st.just("open 99999"))
WORDS = st.builds(
    Presence, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS, COUNTS, COUNTS, COUNTS, COUNTS, view=VIEWS, own=VIEWS, seen_ms=COUNTS
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(WORDS)
def test_a_word_is_read_as_it_was_written(said):
    """Behind its moment."""
    assert presence(said.session, f"{said.seen_ms} {said.to_text()}") == said


@given(TEXTS | JSON.map(lambda value: f"1 {json.dumps(value)}"))
def test_what_is_no_word_is_passed_over(said):
    """Nothing is raised."""
    assert presence("session", said) is None


@given(WORDS, st.sampled_from(["name", "role", "version", "host", "pid", "up_ms", "view", "own"]), JSON)
def test_a_field_that_is_another_is_passed_over_or_read(said, field, value):
    """A word of another version, say."""
    found = presence("session", f"1 {json.dumps({**json.loads(said.to_text()), field: value})}")
    assert found is None or isinstance(found, Presence)


@given(st.lists(WORDS, max_size=5), st.dictionaries(st.sampled_from(["a", "b"]), st.integers(1, 5)))
def test_what_was_read_is_compared_and_told(said, generations):
    """In words that a terminal can show."""
    records = {name: ProviderHealth(name, generation=number) for name, number in generations.items()}
    found = compared(said, Snapshot(NOW, None, {}, {}, {}, records))
    assert all(line.isprintable() for line in as_table(found, NOW).splitlines())
    for each in found:
        json.dumps(fleet.as_json(each))


@given(st.builds(ProviderHealth, st.just("a"), generation=st.integers(1, 9)), st.integers(0, 10**9))
def test_who_sees_the_record_as_it_is_does_not_differ(health, seen_ms):
    """Whenever it spoke."""
    said = Presence("s", "gw", "gateway", "1", "h", 1, 0, view={"a": word_of(health)}, seen_ms=seen_ms)
    (found,) = compared([said], Snapshot(seen_ms, None, {}, {}, {}, {"a": health}))
    assert not found.differs

"""Which of two copies of one record wins: one rule, the same in Python, in the scripts, and in memory."""

from itertools import count

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redis_router import Provider, ProviderHealth
from redis_router.circuit.generations import LOCAL_GENERATIONS
from redis_router.store.memory import Memory, MemoryStore

copies = st.builds(
    ProviderHealth,
    st.just("p"),
    generation=st.sampled_from([1, 2, 3, LOCAL_GENERATIONS + 2]),
    last_check_ms=st.sampled_from([0, 1, 1_700_000_000_000]),
    version=st.integers(0, 4) | st.integers(0, 2**53 - 1),
)
names = count()


@given(copies, copies)
def test_one_of_two_wins(one, other):
    """Never both; neither where nothing tells them apart."""
    assert not (one.supersedes(other) and other.supersedes(one))
    alike = (one.generation, one.last_check_ms == 0, one.version) == (
        other.generation, other.last_check_ms == 0, other.version,
    )  # fmt: skip
    assert alike == (not one.supersedes(other) and not other.supersedes(one))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(copies, copies)
def test_a_copy_is_restored_where_it_wins(real, copy, there):
    """On each real server found, and in memory: 'created' where the replica's copy wins, else 'joined'."""
    name, store, memory = f"s{next(names)}", real.store(now_ms=5), MemoryStore(Memory(), "rr", "gw", now_ms=5)
    provider, status = Provider(name, ("m",)), "created" if copy.supersedes(there) else "joined"
    real.client().hset(store.keys.health(name), mapping=there.to_fields())
    memory.put(ProviderHealth.from_fields(name, there.to_fields()))
    own = ProviderHealth.from_fields(name, copy.to_fields())
    for each in (store, memory):
        reply = each.restore(provider, own)
        assert reply.status == status
        assert reply.health.generation == (copy if status == "created" else there).generation
        assert reply.health.last_check_ms == (copy if status == "created" else there).last_check_ms

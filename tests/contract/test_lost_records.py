"""Redis lost a record, or holds something else in its place: the fleet puts right what can be put right."""

import pytest

from tests.support import eventually, metric
from tests.support.fleet import (
    AZURE,
    OPENAI,
    QUICK,
    fail,
    refresh,
    until,
)


def test_a_lost_record_comes_back_open(pair, backend, redis_client):
    """I-8: FLUSHALL does not close a circuit."""
    first, second = pair
    fail(first, "openai")
    generation = first.get_health_status()["openai"].generation
    redis_client.flushall()
    first.record_result("openai", success=False, latency_ms=1.0)
    assert first.flush()
    record = backend.record()
    assert (record.circuit_state, record.generation) == ("open", generation)
    until(second, "openai", "open")


@pytest.mark.parametrize("left", ["older", "anew"])
def test_what_a_loss_left_behind_is_put_right(pair, router, backend, left, redis_client):
    """I-8: after a failover Redis holds an older record; after FLUSHALL a new replica has written a fresh one."""
    first, second = pair
    store = backend.store()
    older = store.snapshot(["openai"]).records["openai"]
    fail(first, "openai")
    until(second, "openai", "open")
    if left == "older":
        redis_client.hset(store.keys.health("openai"), mapping=older.to_fields())
        refresh(second)
    else:
        redis_client.flushall()
        late = router(circuit=QUICK)
        late.register_provider(OPENAI)
        late.start()
    eventually(lambda: store.snapshot(["openai"]).records["openai"].circuit_state == "open", "it is open again")
    assert first.flush()
    assert store.snapshot(["openai"]).records["openai"].generation == 2


def test_a_lost_spec_is_put_back(pair, backend, redis_client):
    """Without it no worker would know the provider."""
    redis_client.delete(backend.keys.providers)
    refresh(pair[0])
    assert pair[0].flush()
    assert backend.looking.snapshot().specs["openai"].models == OPENAI.models


def test_a_record_that_is_none_disturbs_no_other(pair, backend, redis_client):
    """Somebody wrote a string where the hash should be: that provider's results are dropped, azure's are not."""
    key = backend.keys.health("openai")
    redis_client.set(key, "surprise")
    for name in ("openai", "azure"):
        pair[0].record_result(name, success=True, latency_ms=1.0)
    assert pair[0].flush()
    assert pair[0].get_health_status()["azure"].consecutive_successes == 1
    assert metric(pair[0], "results_dropped_total", reason="refused") == 1
    refresh(pair[0])
    assert pair[0].redis_up


def test_a_record_that_is_none_keeps_no_gateway_from_starting(router, backend, redis_client):
    """The others are served; the bad one is tried again."""
    replica = router()
    redis_client.set(backend.keys.health("openai"), "surprise")
    for provider in (OPENAI, AZURE):
        replica.register_provider(provider)
    replica.start()
    replica.record_result("azure", success=True, latency_ms=1.0)
    assert replica.flush()
    assert replica.get_health_status()["azure"].consecutive_successes == 1
    redis_client.delete(backend.keys.health("openai"))
    eventually(lambda: "openai" in backend.looking.snapshot().records, "it is joined after all")


def test_a_log_that_cannot_be_written_undoes_nothing(pair, backend, redis_client):
    """What is decided and saved stands, is announced, and is counted once."""
    first, second = pair
    redis_client.set(backend.keys.events("openai"), "surprise")
    fail(first, "openai")
    until(second, "openai", "open")
    assert metric(first, "requests_total", provider="openai", outcome="failure") == 3
    assert metric(first, "results_dropped_total", reason="refused") == 0

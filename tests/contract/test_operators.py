"""What operators and deploys do to the fleet: settings, versions of them, taking providers out, clearing up."""

import logging
from dataclasses import replace

import pytest

from redis_router import CircuitConfig, InvalidArgument, Provider, RedisRefused, UnknownProvider, cli
from redis_router.cli import purge
from redis_router.store.messages import text
from tests.support import eventually, metric
from tests.support.fleet import AZURE, OPENAI, QUICK, series_of

BOTH = Provider("openai", models=("gpt-4o", "o3"), circuit_per_model=True)


def log_of(redis_client, keys, name):
    """The entries of a provider's log, oldest first."""
    found = redis_client.xrange(keys.events(name))
    return [{text(field): text(value) for field, value in entry.items()} for _, entry in found]


def registers(replica, *providers):
    for provider in providers:
        replica.register_provider(provider)
    replica.start()
    return replica


class TestSettings:
    @pytest.mark.parametrize("repeat", range(5))
    def test_straight_after_registering(self, router, repeat):
        """A started router: the calls wait for the record."""
        replica = router()
        replica.start()
        replica.register_provider(OPENAI)
        replica.update_health("openai", weight=3.0)
        replica.register_provider(AZURE)
        replica.set_circuit_config(QUICK, "azure")
        found = replica.get_health_status()
        assert (found["openai"].weight, found["azure"].config) == (3.0, QUICK)

    def test_a_router_that_was_not_started_says_what_to_do(self, router):
        """There is nothing to wait for."""
        replica = router()
        replica.register_provider(OPENAI)
        with pytest.raises(RedisRefused, match=r"start\(\)"):
            replica.update_health("openai", weight=3.0)

    def test_an_operator_registers_nothing(self, router, backend):
        """A process that serves no provider changes one; the models of the fleet stay as they are."""
        gateway, alice = registers(router(), OPENAI), router()
        alice.update_health("openai", available=False)
        eventually(lambda: not gateway.get_health_status()["openai"].available)
        alice.set_circuit_config(QUICK, "openai")
        eventually(lambda: gateway.get_health_status()["openai"].config == QUICK)
        assert backend.store().snapshot().specs["openai"].models == OPENAI.models
        assert alice.get_health_status() == {}
        with pytest.raises(UnknownProvider, match=r"'opnai'.*openai"):
            alice.update_health("opnai", available=True)

    def test_a_change_by_name_reaches_every_part(self, router, backend):
        """This process serves one of the two models; the other's record is changed, too."""
        registers(router(), BOTH)
        one = registers(router(), replace(BOTH, models=("gpt-4o",)))
        one.update_health("openai", available=False)
        records = backend.store().snapshot().records
        assert {name: health.available for name, health in records.items()} == {
            "openai/gpt-4o": False,
            "openai/o3": False,
        }
        one.update_health("openai/o3", available=True)
        records = backend.store().snapshot().records
        assert [records[f"openai/{model}"].available for model in ("gpt-4o", "o3")] == [False, True]
        one.set_circuit_config(QUICK, "openai")
        assert {health.config for health in backend.store().snapshot().records.values()} == {QUICK}

    def test_a_part_of_an_older_version_is_known(self, router, backend, redis_client):
        """Its spec does not name the whole."""
        store = backend.store()
        registers(router(), BOTH)
        redis_client.hset(store.keys.providers, "openai/o3", '{"models": ["o3"], "probe": null}')
        router().update_health("openai", weight=2.5)
        assert store.snapshot().records["openai/o3"].weight == 2.5


class TestDeploys:
    CHANGED = replace(QUICK, open_timeout=10.0, consecutive_failure_limit=7)

    def test_what_is_not_taken_is_said_once_for_the_fleet(self, router, caplog, backend, redis_client):
        """As a difference, by whichever process came first."""
        registers(router(circuit=QUICK), OPENAI)
        for _ in range(4):
            late = registers(router(circuit=self.CHANGED), replace(OPENAI, weight=1.0))
            assert late.get_health_status()["openai"].config == QUICK
        said = [r.message for r in caplog.records if "keeps the settings" in r.message]
        assert len(said) == 1
        assert "consecutive_failure_limit 3 -> 7, open_timeout 0.05 -> 10, weight 2 -> 1 not taken" in said[0]
        assert "circuit_version=1" in said[0]
        assert [entry["event"] for entry in log_of(redis_client, backend.keys, "openai")] == ["registered", "declined"]

    def test_another_proposal_is_said_again(self, router, caplog):
        """It is not the same deploy."""
        registers(router(circuit=QUICK), OPENAI)
        for config in (self.CHANGED, replace(QUICK, open_timeout=20.0)):
            registers(router(circuit=config), OPENAI)
        assert sum("keeps the settings" in r.message for r in caplog.records) == 2

    def test_a_higher_version_counts_at_once_for_the_fleet(self, router, caplog):
        """Once: an operator's later word stands, and an older process changes nothing any more."""
        old = registers(router(circuit=QUICK, circuit_version=1), OPENAI)
        new = registers(router(circuit=self.CHANGED, circuit_version=2), OPENAI)
        eventually(lambda: old.get_health_status()["openai"].config == self.CHANGED)
        assert "circuit_version 2 now" in caplog.text
        new.set_circuit_config(replace(self.CHANGED, open_timeout=33.0), "openai")
        for config, version in ((QUICK, 1), (self.CHANGED, 2)):
            late = registers(router(circuit=config, circuit_version=version), OPENAI)
            assert late.get_health_status()["openai"].config.open_timeout == 33.0
        assert sum("keeps the settings" in r.message for r in caplog.records) == 1  # of the second, not of the first

    def test_state_and_weight_stay(self, router):
        """A deploy resets nothing: an open circuit is open, and an operator's weight is an operator's."""
        first = registers(router(circuit=replace(QUICK, open_timeout=60.0), circuit_version=1), OPENAI)
        first.update_health("openai", weight=9.0)
        for _ in range(3):
            first.record_result("openai", success=False, latency_ms=1.0)
        first.flush()
        second = registers(router(circuit=self.CHANGED, circuit_version=2), OPENAI)
        found = second.get_health_status()["openai"]
        assert (found.circuit_state, found.weight, found.config) == ("open", 9.0, self.CHANGED)

    @pytest.mark.parametrize("version", [-1, 1.5, "2", True])
    def test_a_bad_version_is_refused(self, router, version):
        """With the bounds."""
        with pytest.raises(InvalidArgument, match="circuit_version"):
            router(circuit_version=version)


class TestTakingOut:
    def test_the_log_stays_for_a_week_and_says_who(self, router, backend, redis_client):
        """And for good where the provider comes back."""
        registers(router(replica="gw-1"), OPENAI)
        router(replica="alice").deregister_provider("openai", everywhere=True)
        key = backend.keys.events("openai")
        last = log_of(redis_client, backend.keys, "openai")[-1]
        assert (last["event"], last["by"]) == ("deregistered", "alice")
        assert 6 * 86_400_000 < redis_client.pttl(key) <= 7 * 86_400_000
        registers(router(), OPENAI)
        assert redis_client.pttl(key) == -1
        events = [entry["event"] for entry in log_of(redis_client, backend.keys, "openai")]
        assert events[-2:] == ["deregistered", "registered"]

    def test_a_record_with_a_broken_generation_can_be_taken_out(self, router, backend, redis_client):
        """It is the means to get rid of one."""
        store = backend.store()
        registers(router(), OPENAI)
        redis_client.hset(store.keys.health("openai"), "generation", "many")
        router().deregister_provider("openai", everywhere=True)
        assert not redis_client.exists(store.keys.health("openai"))


class TestPurge:
    def seen(self, backend, name, days_ago):
        store = backend.store()
        now_ms, _ = store.leader()
        store.seen([name], now_ms - round(days_ago * 86_400_000))

    def test_what_no_replica_serves_is_listed_and_removed(self, router, backend):
        """Its results are old, too; what is in use stays."""
        gateway, store = registers(router(), OPENAI), backend.operator()
        store.register(AZURE, QUICK)
        eventually(lambda: "openai" in store.last_seen())
        self.seen(backend, "azure", 8)
        (leftover,) = purge.leftovers(store, 7 * 86_400_000)
        assert str(leftover) == "azure: registered by no replica for 8 days"
        purge.remove(store, leftover)
        snapshot = store.snapshot()
        assert (list(snapshot.specs), list(snapshot.deregistered)) == (["openai"], ["azure"])
        assert purge.leftovers(store, 7 * 86_400_000) == []
        assert gateway.flush()

    def test_a_provider_of_an_older_version_is_judged_by_its_results(self, router, backend, redis_client):
        """Its replicas do not say that they serve it."""
        store = backend.store()
        registers(router(), OPENAI).record_result("openai", success=True, latency_ms=1.0)
        eventually(lambda: store.snapshot().records["openai"].last_result_ms)
        redis_client.delete(store.keys.seen)
        assert purge.leftovers(store, 3_600_000) == []

    def test_marks_of_the_deregistered_go_as_well(self, backend):
        """After the same time."""
        store = backend.operator()
        store.register(OPENAI, QUICK)
        store.deregister("openai")
        assert purge.leftovers(store, 3_600_000) == []
        (leftover,) = purge.leftovers(store, 0)
        purge.remove(store, leftover)
        assert store.specs() == {}

    def test_all_is_this_namespace_and_no_other(self, real):
        """Not one that begins alike, and nothing of the application's own."""
        client = real.client()
        store = real.store()
        store.register(OPENAI, QUICK)
        store.register(Provider("a}:b/c".replace("}", ":"), ("m",)), QUICK)
        store.campaign(1_000)
        others = [f"{store.keys.namespace}:staging:{{openai}}:health", f"{store.keys.namespace}:mine", "x"]
        for key in others:
            client.set(key, "1")
        found = purge.all_keys(real.operator())
        assert store.keys.health("openai") in found
        assert not set(found) & set(others)
        assert {store.keys.providers, store.keys.leader} <= set(found)

    def test_the_command(self, real, capsys):
        """Lists, and says how to remove; then removes. A time that replicas do not keep to is refused."""
        store = real.operator()
        store.register(OPENAI, QUICK)
        options = ["--redis", admin_url(real), "--namespace", real.namespace]
        assert cli.main(["purge", *options]) == 0
        assert "nothing to remove" in capsys.readouterr().out
        self.seen(real, "openai", 0.5)
        assert cli.main(["purge", *options, "--unused-for", "3h"]) == 0
        assert "openai: registered by no replica for 12 h\n1 to remove: once more with --yes" in capsys.readouterr().out
        assert cli.main(["purge", *options, "--unused-for", "15m", "--yes"]) == 0
        assert [spec.deregistered for spec in store.specs().values()] == [True]
        store.register(OPENAI, QUICK)
        self.seen(real, "openai", 0.0)
        assert cli.main(["purge", *options, "--all", "--yes"]) == 0
        assert "stop it first" in capsys.readouterr().err
        assert purge.all_keys(store) == []
        for time in ("soon", "10m"):
            with pytest.raises(SystemExit):
                cli.main(["purge", *options, "--unused-for", time])
        assert "replicas say every five minutes" in capsys.readouterr().err

    def test_replicas_say_what_they_serve_now_and_then(self, router, backend, monkeypatch):
        """Once at the beginning, and every five minutes."""
        monkeypatch.setattr("redis_router.replica.registration.SEEN_SECONDS", 0.05)
        store = backend.store()
        registers(router(), OPENAI)
        first = eventually(lambda: store.last_seen().get("openai"))
        eventually(lambda: store.last_seen()["openai"] > first)


def admin_url(real):
    port = real.client().connection_pool.connection_kwargs["port"]
    return f"redis://127.0.0.1:{port}/0"


def test_metrics_are_forgotten_with_a_provider(router):
    """Deregistered by an operator that does not serve it."""
    gateway = registers(router(), OPENAI)
    gateway.flush()
    assert metric(gateway, "available", provider="openai") == 1
    router().deregister_provider("openai", everywhere=True)
    eventually(lambda: not gateway.get_health_status())
    assert "redis_router_available" not in series_of(gateway, "openai")


def test_a_declined_setting_is_no_noise_at_info(router, caplog):
    """Equal settings say nothing."""
    with caplog.at_level(logging.INFO, "redis_router"):
        for _ in range(2):
            registers(router(circuit=CircuitConfig()), OPENAI)
    assert "settings" not in caplog.text

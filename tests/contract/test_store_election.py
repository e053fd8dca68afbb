"""The store, election: one leader until its lease ends, and epochs that rise. On every backend."""


class TestElection:
    def test_a_clock_that_was_set_back_ends_a_dead_leaders_lease(self, backend):
        """Its end lies hours ahead; its owner may renew it, and nobody else needs to wait for it."""
        dead, heir = backend.store("dead", now_ms=10_000_000), backend.store("heir", now_ms=1_000)
        _, first = dead.campaign(15_000)
        dead.now_ms = 1_000
        assert dead.campaign(15_000)[0] == "renewed"
        dead.now_ms = 10_000_000
        dead.campaign(15_000)
        status, second = heir.campaign(15_000)
        assert (status, second.epoch > first.epoch) == ("elected", True)

    def test_one_leader_until_its_lease_ends(self, backend):
        """I-9: a standby waits for exactly the rest of the lease."""
        first, second = backend.store("w1", now_ms=1_000), backend.store("w2", now_ms=3_000)
        assert first.campaign(5_000)[0] == "elected"
        status, leader = second.campaign(5_000)
        assert (status, leader.worker, leader.remaining_ms) == ("standby", "w1", 3_000)
        second.now_ms = 6_000
        assert second.campaign(5_000)[0] == "elected"
        first.now_ms = 6_001
        assert first.campaign(5_000)[0] == "standby"

    def test_renewing_keeps_the_epoch(self, backend):
        """A term is one epoch, however long."""
        store = backend.store("w1", now_ms=1_000)
        _, elected = store.campaign(5_000)
        store.now_ms = 4_000
        status, renewed = store.campaign(5_000)
        assert (status, renewed.epoch, renewed.since_ms, renewed.until_ms) == ("renewed", elected.epoch, 1_000, 9_000)

    def test_epochs_rise_even_over_a_loss_of_the_key(self, backend, redis_client):
        """I-9: epoch = max(epoch + 1, now): a server that forgot the last one cannot issue it again."""
        store = backend.store("w1", now_ms=1_000)
        epochs = [store.campaign(10)[1].epoch]
        store.now_ms = 1_010
        epochs.append(store.campaign(10)[1].epoch)
        redis_client.delete(store.keys.leader)
        store.now_ms = 1_020
        epochs.append(store.campaign(10)[1].epoch)
        assert epochs == sorted(set(epochs))

    def test_an_own_lease_that_ended_is_a_new_term(self, backend):
        """A leader that slept through its lease comes back with a new epoch, never with the old one."""
        store = backend.store("w1", now_ms=1_000)
        _, before = store.campaign(100)
        store.now_ms = 2_000
        status, after = store.campaign(100)
        assert (status, after.epoch > before.epoch) == ("elected", True)

    def test_resigning_frees_the_lease_at_once(self, backend):
        """And a late resignation does not end the successor's term."""
        first, second = backend.store("w1", now_ms=1_000), backend.store("w2", now_ms=1_001)
        _, leader = first.campaign(5_000)
        assert first.resign(leader.epoch) is True
        assert second.campaign(5_000)[0] == "elected"
        assert first.resign(leader.epoch) is False
        assert second.campaign(5_000)[0] == "renewed"

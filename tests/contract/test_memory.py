"""`memory://`: routers and workers of one process share what others share in Redis."""

import multiprocessing
import os

import pytest

from redis_router import HealthChecker, InvalidArgument, Router
from redis_router.store.opening import open_target
from tests.support import eventually, metric
from tests.support.fleet import OPENAI, QUICK, fail, new_router, new_worker, until


@pytest.fixture
def joined():
    """Makes started routers on a memory that know openai, and closes them."""
    made = []

    def make(url, **options):
        replica = new_router(url, **{"circuit": QUICK, **options})
        replica.register_provider(OPENAI)
        replica.start()
        made.append(replica)
        return replica

    yield make
    for replica in made:
        replica.close()


@pytest.fixture
def url(request):
    """A memory of this test's own."""
    return f"memory://{request.node.name}"


class TestInMemory:
    def test_one_name_is_one_fleet(self, joined, url):
        """Another name, or another namespace, is another."""
        first, second, other = joined(url), joined(url), joined(url, namespace="other")
        elsewhere = joined(f"{url}-elsewhere")
        fail(first, "openai")
        until(second, "openai", "open")
        assert (other.get_circuit_state("openai"), elsewhere.get_circuit_state("openai")) == ("closed", "closed")
        assert first.redis_up

    def test_without_a_worker_a_circuit_is_half_open_when_it_is_due(self, joined, url, caplog):
        """There is nobody to wait for: no safety net, and no advice to start a worker."""
        replica = joined(url, safety_net_after=600.0)
        fail(replica, "openai")
        until(replica, "openai", "half_open")
        assert metric(replica, "safety_net_transitions_total", provider="openai") == 0
        assert "redis-router worker" not in caplog.text

    def test_with_a_worker_the_transition_is_the_workers(self, joined, url):
        """Its probes may keep the circuit open, so replicas leave it to the worker that leads."""
        worker = new_worker(url)
        assert worker.run_once().leader
        replica = joined(url, safety_net_after=0.001)
        fail(replica, "openai")
        assert eventually(lambda: worker.run_once().half_opened) == ("openai",)
        until(replica, "openai", "half_open")
        worker.stop()
        fail(replica, "openai", 1)
        until(replica, "openai", "half_open")
        assert replica.get_health_status()["openai"].generation == 5, "opened twice, half-open twice"

    def test_workers_elect_a_leader(self, url):
        """One leads, the other takes over as soon as it stops."""
        workers = [new_worker(url, lease=60.0) for _ in range(2)]
        for worker in workers:
            worker.start()
        leader = eventually(lambda: next((worker for worker in workers if worker.is_leader), None))
        standby = next(worker for worker in workers if worker is not leader)
        assert not standby.is_leader
        leader.stop()
        eventually(lambda: standby.is_leader)
        standby.stop()

    def test_a_router_may_run_the_worker_inside(self, joined, url):
        """As on Redis."""
        replica = joined(url)
        replica.start_health_checker(interval=0.2, lease=1.0)
        store = open_target(url).namespaces["rr"]
        eventually(lambda: store.lease.leader, "it leads")
        fail(replica, "openai")
        until(replica, "openai", "half_open")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
    @pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
    def test_a_forked_child_goes_on_with_a_copy(self, joined, url):
        """Processes share nothing: what happens in the child stays there."""
        replica = joined(url)
        replica.update_health("openai", weight=7.0)
        pipe, theirs = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(target=_in_the_child, args=(replica, theirs))
        child.start()
        assert pipe.poll(20)
        assert pipe.recv() == (True, 7.0)
        child.join()
        assert replica.get_circuit_state("openai") == "closed"

    @pytest.mark.parametrize("make", [Router, HealthChecker])
    def test_another_scheme_is_refused(self, make):
        """The message names those that there are."""
        with pytest.raises(InvalidArgument, match="memory://"):
            make("memories://")


def _in_the_child(replica, pipe):
    fail(replica, "openai")
    until(replica, "openai", "half_open")
    pipe.send((replica.redis_up, replica.get_health_status()["openai"].weight))
    os._exit(0)

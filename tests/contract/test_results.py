"""Results: what is refused, that each counts once, and what becomes of those that cannot be delivered."""

import math
import threading

import pytest

from redis_router import InvalidArgument, UnknownProvider
from tests.support import metric
from tests.support.fleet import OPENAI, QUICK


class TestRecord:
    @pytest.mark.parametrize("latency", [-1, math.nan, math.inf, "5", None, True, 1e12])
    def test_latencies_are_checked(self, pair, latency):
        """Nothing is stored of what was refused."""
        with pytest.raises(InvalidArgument, match="latency_ms"):
            pair[0].record_result("openai", success=True, latency_ms=latency)
        pair[0].flush()
        assert pair[0].get_health_status()["openai"].last_check_ms == 0

    @pytest.mark.parametrize("success", [None, "no", 1])
    def test_success_is_true_or_false(self, pair, success):
        """ "no" would count as a success."""
        with pytest.raises(InvalidArgument, match="success"):
            pair[0].record_result("openai", success=success, latency_ms=1.0)

    def test_unknown_providers_are_refused(self, pair):
        """The error lists those that are known."""
        for call in (
            lambda: pair[0].record_result("opnai", success=True, latency_ms=1),
            lambda: pair[0].get_circuit_state("opnai"),
            lambda: pair[0].update_health("opnai", available=True),
            lambda: pair[0].set_circuit_config(QUICK, "opnai"),
            lambda: pair[0].deregister_provider("opnai"),
        ):
            with pytest.raises(UnknownProvider, match=r"'opnai'.*azure, openai"):
                call()

    def test_a_full_buffer_counts_what_it_drops(self, router):
        """Bounded memory: beyond the limit results are dropped, and counted, and the log says so once."""
        replica = router(buffer_limit=10)
        replica.register_provider(OPENAI)
        for _ in range(25):
            replica.record_result("openai", success=True, latency_ms=1.0)
        assert metric(replica, "results_dropped_total", reason="buffer_full") == 15
        assert metric(replica, "results_pending") == 10

    def test_after_close_results_are_counted_as_dropped(self, pair):
        """Nothing is lost silently."""
        pair[0].close()
        pair[0].record_result("openai", success=True, latency_ms=1.0)
        assert metric(pair[0], "results_dropped_total", reason="closed") == 1

    def test_every_result_is_applied(self, pair, backend):
        """Many threads, both replicas, thousands of results: the totals agree."""

        def work(replica):
            for _ in range(500):
                replica.record_result("openai", success=True, latency_ms=1.0)

        threads = [threading.Thread(target=work, args=(replica,)) for replica in pair for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(replica.flush() for replica in pair)
        record = backend.record()
        assert record.consecutive_successes == 4_000
        counted = [metric(r, "requests_total", provider="openai", outcome="success") for r in pair]
        assert counted == [2_000, 2_000]

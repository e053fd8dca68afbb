"""An ACL that changes while the router runs."""

import logging

import pytest

from tests.faults.attacked import fail, record_of, said, until
from tests.support import eventually, metric


class TestRights:
    """An ACL that changes while the router runs."""

    @pytest.mark.parametrize("right", ["hset", "set", "hgetall", "evalsha", "publish", "get"])
    def test_a_lost_right_means_deciding_alone(self, admin, router, caplog, right):
        """Said once; in Redis, waiting or counted; and when it is back, nothing was applied twice."""
        caplog.set_level(logging.INFO, "redis_router")
        admin.execute_command("ACL", "SETUSER", "router", f"-{right}")
        fail(router)
        until(router, "open")
        eventually(lambda: not router.redis_up)
        assert not router.flush(0.2)
        assert metric(router, "requests_total", provider="broken", outcome="failure") == 0
        assert router.select_provider("m").name == "healthy"
        admin.execute_command("ACL", "SETUSER", "router", f"+{right}")
        eventually(lambda: router.redis_up)
        assert router.flush()
        counted = metric(router, "requests_total", provider="broken", outcome="failure")
        dropped = metric(router, "results_dropped_total", reason="expired")
        assert counted + dropped == 3
        assert int(record_of(admin)["consecutive_failures"]) == counted
        assert len(said(caplog, "out of touch")) == 1

    def test_what_was_refused_is_not_taken_for_written(self, admin, router):
        """The note of a batch is written before the record: it counts only where the record was written, too."""
        admin.execute_command("ACL", "SETUSER", "router", "-hset")
        for _ in range(100):
            router.record_result("healthy", success=True, latency_ms=5.0)
        eventually(lambda: not router.redis_up)
        admin.execute_command("ACL", "SETUSER", "router", "+hset")
        eventually(lambda: router.redis_up)
        assert router.flush()
        dropped = metric(router, "results_dropped_total", reason="expired")
        assert int(record_of(admin, "healthy")["consecutive_successes"]) == 100 - dropped

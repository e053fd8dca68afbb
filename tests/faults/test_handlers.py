"""The application's own code on our threads: log handlers, listeners, signal handlers."""

import logging
import os
import subprocess
import sys
import textwrap
from functools import partial

import pytest

from tests.faults.attacked import fail, let_in, until
from tests.support import eventually
from tests.support.fleet import log_handler, waiting_log_handler


class TestHandlers:
    """The application's own code, on our threads."""

    @pytest.mark.parametrize("error", [RuntimeError, SystemExit])
    def test_a_log_handler_that_raises_ends_no_thread(self, server, admin, router, error):
        """Neither does a filter, nor `on_transition`."""

        def raises(record):
            raise error("a handler of the application's own")

        logger = logging.getLogger("redis_router")
        logger.addFilter(raises)
        try:
            fail(router)
            until(router, "open")
            server.stop()
            eventually(lambda: not router.redis_up)
            server.start()
            let_in(server)
            eventually(lambda: router.redis_up, "back", 20)
            fail(router, "healthy")
            until(router, "open", "healthy")
        finally:
            logger.removeFilter(raises)
        assert router.flush()

    def test_a_listener_that_ends_is_called_again(self, made):
        """SystemExit is not for our thread to end by."""
        told = []

        def listener(change):
            told.append(change.provider)
            raise SystemExit

        router = made(on_transition=listener)
        fail(router)
        fail(router, "healthy")
        eventually(lambda: sorted(told) == ["broken", "healthy"])

    @pytest.mark.parametrize("call", ["flush", "close"])
    def test_a_log_handler_may_close_or_flush(self, made, call):
        """On the thread that would have to do it, it returns at once."""
        router = made()
        returned = []

        def calls(record):
            getattr(router, call)(timeout=600.0)  # longer than the test has: whoever waits for itself waits so long
            returned.append(record)

        with log_handler(calls):
            fail(router)
            eventually(lambda: returned)

    def test_a_handler_that_waits_for_an_operators_call_hangs_nobody(self, router):
        """No lock of ours is held while it runs."""
        with waiting_log_handler(partial(router.update_health, "healthy", weight=2.0)):
            fail(router)


SIGNALS = """
    import signal, sys, threading, time
    from redis_router import Router, Provider, CircuitConfig, NoProviderAvailable

    router = Router(sys.argv[1], circuit=CircuitConfig(consecutive_failure_limit=1000), buffer_limit=50)
    router.register_provider(Provider("p", ("m",)))
    router.start()
    handled = 0

    def use():
        for success in (True, False):
            router.record_result("p", success=success, latency_ms=1.0)
        for attempt in router.attempts("m"):
            with attempt:
                pass

    def handler(number, frame):
        global handled
        handled += 1
        use()
        if handled >= 3000:  # a handler inside this one may have counted further
            signal.setitimer(signal.ITIMER_REAL, 0)
            router.close()

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
    while handled < 3000:
        use()
        router.flush(0.001)
    router.close()
    print("ended after", handled)
"""


def test_a_signal_handler_may_call_the_router(server):
    """While the main thread is inside the same call: no lock is taken twice."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SIGNALS), server.url],
        capture_output=True, text=True, timeout=100, env={**os.environ, "PYTHONFAULTHANDLER": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ended after 30" in done.stdout

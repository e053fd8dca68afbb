"""One attempt, and a loop of them: what is recorded, and what the caller sees."""

import asyncio
import threading
import time

import pytest

from redis_router import NoProviderAvailable, RouterError
from tests.support import eventually, metric
from tests.support.fleet import (
    chosen,
    half_open,
    health,
)


class TestAttempts:
    def test_fail_over_to_the_next_and_record_both(self, pair):
        """The first provider fails, the second answers; the user sees nothing of it."""
        first, _ = pair
        tried = []
        for attempt in first.attempts("gpt-4o"):
            with attempt:
                tried.append(attempt.provider.name)
                if len(tried) == 1:
                    raise ConnectionError
        first.flush()
        assert sorted(tried) == ["azure", "openai"]
        health = first.get_health_status()
        assert [health[name].consecutive_failures for name in tried] == [1, 0]
        assert [health[name].consecutive_successes for name in tried] == [0, 1]

    def test_the_last_error_is_passed_on(self, pair):
        """When every provider was tried once, the caller gets the real error."""
        tried = []
        with pytest.raises(ConnectionError, match="2nd"):  # noqa: PT012 - the loop is what raises
            for attempt in pair[0].attempts("gpt-4o"):
                with attempt:
                    tried.append(attempt.provider.name)
                    raise ConnectionError("1st" if len(tried) == 1 else "2nd")
        assert sorted(tried) == ["azure", "openai"]

    def test_success_ends_the_loop(self, pair):
        """One attempt; leaving the loop from inside with `break` is a success, too."""
        attempts = 0
        for attempt in pair[0].attempts("gpt-4o"):
            with attempt:
                attempts += 1
        for attempt in pair[0].attempts("gpt-4o"):
            with attempt:
                attempts += 1
                break
        assert attempts == 2
        assert pair[0].flush()
        assert sum(health.consecutive_successes for health in pair[0].get_health_status().values()) == 2

    def test_nobody_to_try(self, pair):
        """The loop does not begin."""
        with pytest.raises(NoProviderAvailable):
            next(iter(pair[0].attempts("gpt-5")))

    def test_a_single_attempt_passes_its_error_on(self, pair):
        """And counts it."""
        with pytest.raises(ValueError, match="boom"), pair[0].attempt("gpt-4o") as attempt:
            raise ValueError("boom")
        pair[0].flush()
        assert pair[0].get_health_status()[attempt.provider.name].consecutive_failures == 1

    def test_an_attempt_is_good_for_one_call(self, pair):
        """A second `with` would record a call that nobody chose."""
        with pair[0].attempt("gpt-4o") as attempt:
            pass
        with pytest.raises(RouterError, match="used already"), attempt:
            pass

    def test_latency_is_measured(self, pair):
        """In milliseconds, of the `with` block."""
        before = time.perf_counter()
        with pair[0].attempt("gpt-4o") as attempt:
            began = time.perf_counter()
            time.sleep(0.03)  # the call
            ended = time.perf_counter()
        after = time.perf_counter()
        found = health(pair[0], attempt.provider.name).latency_ms
        assert (ended - began) * 1000 <= found <= (after - before) * 1000

    def test_the_same_lines_work_in_asyncio(self, pair):
        """No async twin: in memory there is nothing to await."""

        async def gateway():
            async with asyncio.timeout(10):
                for attempt in pair[0].attempts("gpt-4o"):
                    with attempt:
                        await asyncio.sleep(0)  # the call
                        answered.append(attempt.provider.name)

        answered = []
        asyncio.run(gateway())
        assert len(answered) == 1

    def test_cancellation_says_nothing_about_the_provider(self, pair):
        """An attempt that is cancelled is recorded as ignored: no verdict, no further attempt."""
        tried = []

        async def call():
            for attempt in pair[0].attempts("gpt-4o"):
                with attempt:
                    tried.append(attempt.provider.name)
                    await asyncio.sleep(60)  # the call

        async def client():
            task = asyncio.create_task(call())
            await asyncio.sleep(0)  # the task begins
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(client())
        pair[0].flush()
        (name,) = tried
        assert pair[0].get_health_status()[name].consecutive_failures == 0
        assert metric(pair[0], "requests_total", provider=name, outcome="ignored") == 1

    def test_a_cancelled_trial_returns_its_permit(self, alone_on_openai, checker, backend):
        """In half-open, without a verdict: the circuit stays as it is, the next call may try."""
        replica = alone_on_openai(permit_ttl=60.0)
        half_open(replica, checker())
        attempt = eventually(lambda: chosen(replica, "gpt-4o"), "a trial call")
        with pytest.raises(asyncio.CancelledError), attempt:
            raise asyncio.CancelledError
        assert replica.flush()
        assert attempt.permit not in backend.permits()
        assert replica.get_circuit_state("openai") == "half_open"

    def test_32_threads_on_one_router(self, pair, backend):
        """Each attempt is recorded once, whoever made it."""

        def work():
            for _ in range(50):
                with pair[0].attempt("gpt-4o"):
                    pass

        threads = [threading.Thread(target=work) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pair[0].flush()
        assert sum(health.consecutive_successes for health in backend.looking.snapshot().records.values()) == 1_600

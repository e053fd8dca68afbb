"""All are out, and the request waits for the first to come back."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest

from redis_router import NoProviderAvailable, RouterError
from tests.support import eventually
from tests.support.fleet import (
    AZURE,
    OPENAI,
    Status,
    ask,
    fail,
    health,
    somebody_waits,
)


class TestWaiting:
    """All are out; the first to come back is taken."""

    def out(self, replica, other):
        for name in ("openai", "azure"):
            replica.update_health(name, available=False)
        for each in (replica, other):
            eventually(lambda each=each: not each.get_fallback_providers("gpt-4o"))

    @contextmanager
    def once_it_waits(self, replica, call):
        """Meanwhile, on another thread: as soon as a request waits at this replica, this call."""

        def wait_and_call():
            eventually(lambda: somebody_waits(replica), "a request waits")
            call()

        with ThreadPoolExecutor(1) as pool:
            called = pool.submit(wait_and_call)
            yield
            called.result()

    def back(self, replica, other):
        """Another replica's operator puts azure back as soon as a request waits at this one."""
        return self.once_it_waits(replica, partial(other.update_health, "azure", available=True))

    def test_in_a_thread(self, fleet):
        """Another replica's operator puts a provider back."""
        replica, other = fleet()
        self.out(replica, other)
        with self.back(replica, other):
            for attempt in replica.attempts("gpt-4o", wait=True, deadline=20.0):
                with attempt:
                    assert attempt.provider is AZURE
        assert health(replica, "azure").consecutive_successes == 1

    def test_in_asyncio(self, fleet):
        """The loop goes on meanwhile."""
        replica, other = fleet()
        self.out(replica, other)

        async def operator():
            while not somebody_waits(replica):
                await asyncio.sleep(0)  # until the request waits
            await asyncio.to_thread(other.update_health, "azure", available=True)

        async def request():
            async for attempt in replica.attempts("gpt-4o", wait=True, deadline=20.0):
                with attempt:
                    assert attempt.provider is AZURE

        async def both():
            await asyncio.gather(operator(), request())

        asyncio.run(both())

    def test_a_hundred_requests_wait_at_once(self, fleet):
        """Nobody is forgotten."""
        replica, other = fleet()
        self.out(replica, other)
        served = []

        async def request():
            async for attempt in replica.attempts("gpt-4o", wait=True, deadline=20.0):
                with attempt:
                    served.append(attempt.provider.name)

        async def all_of_them():
            await asyncio.gather(*(request() for _ in range(100)))

        with self.back(replica, other):
            asyncio.run(all_of_them())
        assert served == ["azure"] * 100
        assert not somebody_waits(replica)

    def test_until_the_deadline(self, fleet):
        """Then it says why."""
        replica, other = fleet()
        self.out(replica, other)
        began = time.monotonic()
        with pytest.raises(NoProviderAvailable, match="drained"):
            next(iter(replica.attempts("gpt-4o", wait=True, deadline=0.2)))
        assert time.monotonic() - began >= 0.2

    def test_a_model_that_nobody_serves_is_not_waited_for(self, fleet):
        """It would never come."""
        replica, _ = fleet()
        with pytest.raises(NoProviderAvailable, match="no provider serves it"):
            next(iter(replica.attempts("gpt-9", wait=True, deadline=20.0)))

    def test_a_half_open_circuit_is_waited_for(self, fleet, checker):
        """Until the worker moves it and a permit is there."""
        replica, _ = fleet()
        replica.update_health("azure", available=False)
        fail(replica, "openai")
        checker(interval=0.1).start()
        for attempt in replica.attempts("gpt-4o", wait=True, deadline=20.0):
            with attempt:
                assert attempt.provider is OPENAI
                assert attempt.permit is not None

    def test_the_first_error_is_held_back_while_it_waits(self, fleet):
        """A fails, B is out and comes back: the request succeeds. Else A's error is what the caller sees."""
        replica, other = fleet()
        replica.update_health("azure", available=False)
        eventually(lambda: len(replica.get_fallback_providers("gpt-4o")) == 1)
        with self.back(replica, other):
            tried = ask(replica.attempts("gpt-4o", wait=True, deadline=20.0), OSError("down"), None)
        assert [attempt.provider.name for attempt in tried] == ["openai", "azure"]
        replica.update_health("azure", available=False)
        eventually(lambda: len(replica.get_fallback_providers("gpt-4o")) == 1)
        with pytest.raises(OSError, match="down") as caught:
            ask(replica.attempts("gpt-4o", wait=True, deadline=0.3), OSError("down"))
        assert "drained" in caught.value.__notes__[-1]

    def test_a_rate_limited_provider_is_tried_again_when_it_is_over(self, fleet):
        """The only one there is: its limit is waited out."""
        replica, _ = fleet()
        limited = Status(429, retry_after="0.2")
        assert len(ask(replica.attempts("claude-sonnet", wait=True, deadline=20.0), limited, None)) == 2

    @pytest.mark.parametrize("said", ["0", "-5", "Mon, 01 Jan 2001 00:00:00 GMT"])
    def test_a_limit_that_is_over_already_is_not_hammered(self, fleet, said):
        """Whatever it says, the provider is asked again after a pause; and not for ever."""
        replica, _ = fleet()
        tried = []
        with pytest.raises(Status):
            ask(replica.attempts("claude-sonnet", wait=True, deadline=1.5), Status(429, retry_after=said), tried=tried)
        assert len(tried) == 2

    def test_closing_the_router_ends_it(self, fleet):
        """Nobody will come back here."""
        replica, other = fleet()
        self.out(replica, other)
        with self.once_it_waits(replica, replica.close), pytest.raises(NoProviderAvailable):
            next(iter(replica.attempts("gpt-4o", wait=True, deadline=600.0)))  # more than the test has

    def test_a_plain_loop_under_asyncio_does_not_wait_by_default(self, fleet):
        """Where the router says wait, and the loop cannot: the provider's own error is what counts."""
        replica, _ = fleet(when_all_open="wait")

        async def request():
            ask(replica.attempts("claude-sonnet"), OSError("down"))

        with pytest.raises(OSError, match="down"):
            asyncio.run(request())

    def test_a_plain_loop_does_not_block_asyncio(self, fleet):
        """It is refused, with the remedy."""
        replica, other = fleet()
        self.out(replica, other)

        async def request():
            for _ in replica.attempts("gpt-4o", wait=True, deadline=20.0):
                pass

        with pytest.raises(RouterError, match="async for"):
            asyncio.run(request())

    def test_by_default_where_the_router_says_so(self, fleet):
        """`when_all_open="wait"`; a single attempt never waits."""
        replica, other = fleet(when_all_open="wait")
        self.out(replica, other)
        with pytest.raises(NoProviderAvailable):
            replica.select_provider("gpt-4o")
        with pytest.raises(NoProviderAvailable):
            next(iter(replica.attempts("gpt-4o", wait=False)))
        with self.back(replica, other), next(iter(replica.attempts("gpt-4o", deadline=20.0))) as attempt:
            assert attempt.provider is AZURE

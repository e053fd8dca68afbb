"""An answer that began is nobody else's to finish."""

import asyncio

import pytest

from tests.support.fleet import NEVER, health


class TestStreams:
    def stream(self, replica, error, **options):
        """The parts that reach the user, and what the generator raised."""
        parts = []
        try:
            for attempt in replica.attempts("m", **options):
                with attempt:
                    for part in ("The answer", " is "):
                        attempt.first_token()
                        parts.append(part)
                    raise error
        except Exception as caught:
            return parts, caught
        return parts, None

    @pytest.mark.parametrize("error", [OSError("cut"), TimeoutError("read timed out")])
    def test_an_answer_that_began_is_not_continued_by_another(self, bad_and_good, error):
        """The failure is counted, the error passed on."""
        replica = bad_and_good(circuit=NEVER)
        parts, caught = self.stream(replica, error, deadline=20.0)
        assert parts == ["The answer", " is "]
        assert caught is error
        replica.flush()
        assert sorted(h.consecutive_failures for h in replica.get_health_status().values()) == [0, 1]

    def test_nor_where_the_code_says_that_it_failed(self, bad_and_good):
        """`fail` without an exception ends the loop."""
        replica = bad_and_good(circuit=NEVER)
        tried = []
        for attempt in replica.attempts("m"):
            with attempt:
                tried.append(attempt)
                attempt.first_token()
                attempt.fail("filtered")
        assert len(tried) == 1

    def test_before_its_first_token_another_one_answers(self, bad_and_good):
        """Nothing reached the user yet."""
        replica, tried = bad_and_good(circuit=NEVER), []
        for attempt in replica.attempts("m"):
            with attempt:
                tried.append(attempt.provider.name)
                if len(tried) == 1:
                    raise OSError("cut")
                attempt.first_token()
        assert len(tried) == 2

    def test_a_deadline_that_ends_an_answer_is_no_failure(self, bad_and_good):
        """It answered, only too long: `asyncio.timeout` for the rest of the stream."""
        replica = bad_and_good(only="good")

        async def request():
            async for attempt in replica.attempts("m", deadline=0.1):
                with attempt:
                    attempt.first_token()
                    async with asyncio.timeout(attempt.timeout):
                        await asyncio.sleep(60)  # the rest of the answer

        with pytest.raises(TimeoutError):
            asyncio.run(request())
        assert health(replica, "good").failure_rate == 0.0

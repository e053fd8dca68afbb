"""Nobody may be called: the least bad one, or a limit to how many are left out."""

from dataclasses import replace

import pytest

from redis_router import InvalidArgument
from tests.support.fleet import AZURE, OPENAI, QUICK, fail, half_open, health, until


class TestWhenAllAreOpen:
    def test_the_least_bad_one_is_better_than_none(self, fleet):
        """An open circuit gets the call, which moves no circuit; one that an operator drained never does."""
        replica, _ = fleet(when_all_open="least_bad", circuit=replace(QUICK, open_timeout=30.0))
        fail(replica, "openai")
        assert replica.select_provider("gpt-4o") is AZURE
        replica.update_health("azure", available=False)
        generation = health(replica, "openai").generation
        for attempt in replica.attempts("gpt-4o"):
            with attempt:
                assert attempt.provider is OPENAI
                assert attempt.generation == 0
        found = health(replica, "openai")
        assert (found.circuit_state, found.generation) == ("open", generation)

    def test_least_bad_in_half_open_takes_no_part_in_the_trial(self, fleet, checker):
        """Permits bound the trial; what goes there without one is no verdict."""
        replica, _ = fleet(when_all_open="least_bad", circuit=replace(QUICK, half_open_success_threshold=100))
        replica.update_health("azure", available=False)
        half_open(replica, checker())
        held = [replica.attempt("gpt-4o") for _ in range(30)]
        without = [attempt for attempt in held if attempt.permit is None]
        assert len(held) - len(without) <= QUICK.half_open_max_probes
        for attempt in without:
            with attempt:
                pass
        assert health(replica, "openai").consecutive_successes == 0
        for attempt in held:
            attempt.discard()
        for _ in range(5):  # by hand, it is no trial either
            assert replica.select_provider("gpt-4o") is OPENAI
            replica.record_result("openai", success=True, latency_ms=1.0)
        assert health(replica, "openai").circuit_state == "half_open"

    def test_only_so_many_are_left_out(self, fleet):
        """Here: of two, one at most. The shared record is as open as before."""
        replica, strict = fleet(max_ejection_percent=50.0, circuit=replace(QUICK, open_timeout=30.0))
        fail(replica, "openai")
        assert {replica.select_provider("gpt-4o").name for _ in range(10)} == {"azure"}
        fail(replica, "azure", 4)
        assert replica.get_circuit_state("azure") == replica.get_circuit_state("openai") == "open"
        assert len({replica.select_provider("gpt-4o").name for _ in range(10)}) == 1
        until(strict, "azure", "open")

    @pytest.mark.parametrize(
        "options",
        [{"when_all_open": "hope"}, {"max_ejection_percent": 101}, {"rate_limit_cooldown": -1}, {"classify": 1}],
    )
    def test_bad_options_are_refused(self, router, options):
        """With the choices."""
        with pytest.raises(InvalidArgument):
            router(**options)

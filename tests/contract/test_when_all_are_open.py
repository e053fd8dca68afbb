"""Nobody may be called: the least bad one, or a limit to how many are left out."""

from contextlib import suppress
from dataclasses import replace

import pytest

from redis_router import InvalidArgument, NoProviderAvailable
from tests.support.fleet import AZURE, OPENAI, QUICK, Status, fail, half_open, health, until
from tests.support.servers import eventually


def can_select(replica, model):
    """Is there anybody for it now?"""
    try:
        return replica.select_provider(model)
    except NoProviderAvailable:
        return None


def until_unavailable(replica, name):
    """Wait until this replica sees that an operator took it out."""
    eventually(lambda: not replica.get_health_status()[name].available, f"{name} is out of service")


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

    def test_in_a_panic_who_still_answers_is_called(self, fleet):
        """Its circuit opened, and calls that began before go well: it is better than nobody, until it fails."""
        replica, other = fleet(circuit=replace(QUICK, open_timeout=30.0))
        replica.update_health("azure", available=False)
        until_unavailable(other, "azure")
        earlier = [replica.attempt("gpt-4o") for _ in range(2)]
        with earlier[0]:
            fail(replica, "openai")
            with pytest.raises(NoProviderAvailable):
                replica.select_provider("gpt-4o")
        eventually(lambda: can_select(other, "gpt-4o"), "the other replica hears of the answer")
        found = health(replica, "openai")
        assert (found.circuit_state, found.still_answers) == ("open", True)
        fails = 0
        while can_select(replica, "gpt-4o"):
            with suppress(Status):
                for attempt in replica.attempts("gpt-4o", wait=False):
                    with attempt:
                        assert attempt.generation == 0
                        raise Status(503)
            fails += 1
            assert replica.flush()
            assert fails < 10
        assert health(replica, "openai").generation == found.generation
        with earlier[1]:  # one answer does not outweigh them
            pass
        assert not can_select(replica, "gpt-4o")

    def test_in_a_panic_a_provider_that_answers_nobody_is_left_alone(self, fleet, checker):
        """In open, and in half-open: what recovers is not met by everybody at once."""
        replica, _ = fleet(circuit=replace(QUICK, half_open_success_threshold=100))
        replica.update_health("azure", available=False)
        half_open(replica, checker())
        held = []
        with suppress(NoProviderAvailable):
            while True:
                held.append(replica.attempt("gpt-4o"))
                with held[-1]:
                    assert held[-1].permit is not None
                assert len(held) < 1000
        found = health(replica, "openai")
        assert (found.circuit_state, found.still_answers) == ("half_open", False)

    def test_who_wants_no_panic_says_raise(self, fleet):
        """Then an open circuit is never called without a permit."""
        replica, _ = fleet(when_all_open="raise", circuit=replace(QUICK, open_timeout=30.0))
        replica.update_health("azure", available=False)
        with replica.attempt("gpt-4o"):
            fail(replica, "openai")
        assert health(replica, "openai").still_answers
        assert not can_select(replica, "gpt-4o")

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

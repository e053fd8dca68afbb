"""The fleet's breaker in LiteLLM's Router: what it records of each call, whom it leaves out, and what users see."""

import asyncio
import gc
import time
from datetime import datetime, timedelta

import pytest

from redis_router import CircuitConfig
from tests.integrations.litellm.conftest import until
from tests.support.fleet import NEVER

pytestmark = pytest.mark.filterwarnings("ignore")  # LiteLLM's own
OPENS_AT_ONCE = CircuitConfig(consecutive_failure_limit=1, open_timeout=60.0)
RECOVERS = CircuitConfig(consecutive_failure_limit=1, open_timeout=0.05, half_open_success_threshold=1)


def counted(lite, name):
    """Successes and failures in a row, and what the last failure was."""
    found = lite.health(name)
    return found.consecutive_successes, found.consecutive_failures, found.last_failure


class TestOutcomes:
    """Each is recorded once, whatever hooks tell of it."""

    @pytest.mark.parametrize(
        ("fault", "expected"),
        [
            (None, (1, 0, "")),
            ((503, {}), (0, 1, "http_503")),
            ((504, {}), (0, 1, "http_504")),
            ((401, {}), (0, 1, "unauthorized")),
            ((400, {}), (0, 0, "")),
            ((429, {}), (0, 0, "")),
            ("reset", (0, 1, "http_500")),
            ((200, {"content-type": "text/html"}, "<html>"), (0, 1, "http_500")),
        ],
    )
    def test_a_call_is_recorded_once(self, lite, fault, expected):
        """As `docs/requests.md` says of outcomes."""
        lite.start("a", breaker={"circuit": NEVER})
        lite.servers["a"].faults.append(fault)

        async def play():
            await lite.asked()
            await lite.settled()

        asyncio.run(play())
        assert counted(lite, "a") == expected
        assert lite.calls("a") == 1

    def test_a_time_out_of_the_client(self, lite):
        """A provider that accepts and never answers fails, by the name that the library has for it."""
        lite.start("a", breaker={"circuit": NEVER}, timeout=0.3)
        lite.servers["a"].faults.append("hang")

        async def play():
            assert await lite.asked() == "Timeout"
            await lite.settled()

        asyncio.run(play())
        assert counted(lite, "a") == (0, 1, "timeout")

    def test_the_time_of_a_rate_limit_is_the_providers(self, lite):
        """`Retry-After` counts, wherever LiteLLM keeps it."""
        lite.start("a", "b", num_retries=3)
        for name in "ab":
            lite.servers[name].faults.append((429, {"retry-after": "20"}))

        async def play():
            assert await lite.asked() == "NobodyAvailable"
            await lite.settled()

        asyncio.run(play())
        for name in "ab":
            assert lite.health(name).cooldown_until_ms > time.time() * 1000 + 10_000
        assert lite.calls("a") == lite.calls("b") == 1

    def test_every_try_of_a_request_counts(self, lite):
        """Each has an id of its own. The second one goes to the other deployment, which did not fail this request."""
        lite.start("a", "b", breaker={"circuit": NEVER}, num_retries=3)

        async def play():
            for _ in range(6):
                lite.servers["a"].faults.append((503, {}))
                assert await lite.asked() == ""
                lite.servers["a"].faults.clear()
            await lite.settled()

        asyncio.run(play())
        assert lite.calls("a") <= 6
        assert lite.calls("b") == 6
        assert lite.health("b").consecutive_successes == 6
        assert lite.health("a").consecutive_failures == lite.calls("a")

    def test_a_caller_who_hangs_up(self, lite):
        """LiteLLM tells nobody of a cancelled call: it says nothing about the provider, and is not under way."""
        lite.start("a")
        lite.servers["a"].faults.append("hang")

        async def play():
            task = asyncio.create_task(lite.ask())
            await until(lambda: lite.calls("a") == 1)
            assert lite.breaker.calls_under_way == 1
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await lite.settled()

        asyncio.run(play())
        assert counted(lite, "a") == (0, 0, "")

    def test_errors_of_local_code_are_nobodys(self, lite):
        """What no provider said: here an error between the beginning of the call and its end."""
        lite.start("a")

        async def play():
            facts = {"litellm_call_id": "c1", "model_info": {"id": "a"}}
            await lite.breaker.async_pre_call_deployment_hook(facts, None)
            await lite.breaker.async_post_call_failure_deployment_hook(facts, ModuleNotFoundError("orjson"), None)
            await lite.settled()

        asyncio.run(play())
        assert counted(lite, "a") == (0, 0, "")


class TestStreams:
    @pytest.mark.parametrize(
        ("fault", "expected"), [(None, (1, 0)), ("cut", (0, 1)), ("cut_early", (0, 1)), ((503, {}), (0, 1))]
    )
    def test_a_stream_is_recorded_at_its_end(self, lite, fault, expected):
        """Once: it reached its end, or broke before or after its first part."""
        lite.start("a", breaker={"circuit": NEVER})
        lite.servers["a"].faults.append(fault)

        async def play():
            await lite.asked(stream=True)
            await lite.settled()

        asyncio.run(play())
        assert counted(lite, "a")[:2] == expected

    @pytest.mark.parametrize("broken", [False, True])
    def test_the_averages_take_the_time_to_the_first_part(self, lite, broken):
        """So that a long answer is not a slow provider, also where it broke."""
        lite.start("a")
        began = datetime(2026, 1, 1)

        async def play():
            facts = {"litellm_call_id": "c1", "model_info": {"id": "a"}, "stream": True}
            await lite.breaker.async_pre_call_deployment_hook(facts, None)
            first, end = began + timedelta(milliseconds=70), began + timedelta(minutes=1)
            said = {**facts, "completion_start_time": first, "exception": ConnectionError("broken")}
            log = lite.breaker.async_log_failure_event if broken else lite.breaker.async_log_success_event
            await log(said, None, began, end)
            await lite.settled()

        asyncio.run(play())
        assert lite.health("a").latency_ms == pytest.approx(70.0)
        assert counted(lite, "a") == ((0, 1, "connection") if broken else (1, 0, ""))

    def test_a_stream_that_is_left(self, lite):
        """LiteLLM tells nobody: the call is over when nobody holds it any more."""
        lite.start("a")

        async def leave():
            answer = await lite.router.acompletion(model="gpt-4o", messages=[], stream=True)
            async for _ in answer:
                break

        async def play():
            await asyncio.create_task(leave())
            gc.collect()
            await lite.settled()

        asyncio.run(play())
        assert counted(lite, "a") == (0, 0, "")


class TestCache:
    @pytest.mark.parametrize("stream", [False, True])
    def test_an_answer_from_the_cache_says_nothing(self, lite, litellm, stream):
        """The hook before the call runs all the same: what began there ends without a word."""
        pytest.importorskip("orjson", reason="LiteLLM's cache needs it")
        lite.start("a", cache_responses=True)

        async def play():
            for _ in range(3):
                await lite.ask(stream=stream)
                await lite.settled()

        try:
            asyncio.run(play())
        finally:
            litellm.cache = None
        assert lite.calls("a") == 1
        assert counted(lite, "a") == (1, 0, "")


class TestFilter:
    def test_an_open_circuit_gets_no_calls(self, lite):
        """One failure opens it, and the next requests go to the other."""
        lite.start("a", "b", breaker={"circuit": OPENS_AT_ONCE}, num_retries=2)
        lite.servers["a"].faults.extend([(503, {})] * 100)

        async def play():
            for _ in range(20):
                assert await lite.asked() == ""
                await lite.settled()

        asyncio.run(play())
        assert lite.calls("a") <= 1
        assert lite.calls("b") == 20

    def test_other_processes_know(self, lite):
        """What one of them trips is left out by the next one."""
        from redis_router.integrations.litellm import FleetBreaker

        lite.start("a", "b", breaker={"circuit": OPENS_AT_ONCE}, num_retries=2)
        lite.servers["a"].faults.extend([(503, {})] * 100)
        other = FleetBreaker(lite.redis, worker=False)
        other.register(lite.router.model_list)

        async def play():
            while lite.calls("a") == 0:
                await lite.ask()
            await until(lambda: other.router.get_circuit_state("a") == "open")
            return await other.async_filter_deployments("gpt-4o", lite.router.model_list, [], {})

        try:
            assert [each["model_info"]["id"] for each in asyncio.run(play())] == ["b"]
        finally:
            other.router.close()

    @pytest.mark.parametrize("chooses", [False, True])
    def test_a_drained_deployment_gets_no_calls(self, lite, chooses):
        """An operator's word counts, whoever chooses."""
        lite.start("a", "b", breaker={"chooses": chooses})
        lite.breaker.router.drain("a", reason="maintenance")

        async def play():
            for _ in range(10):
                await lite.ask()

        asyncio.run(play())
        assert (lite.calls("a"), lite.calls("b")) == (0, 10)

    @pytest.mark.parametrize("chooses", [False, True])
    def test_it_recovers_by_trial_calls(self, lite, chooses):
        """Half-open: a trial call closes it, and its permit comes back."""
        lite.start("a", "b", breaker={"circuit": RECOVERS, "chooses": chooses}, num_retries=2)
        lite.servers["a"].faults.append((503, {}))

        async def play():
            while lite.calls("a") < 1:
                await lite.ask()
            await lite.settled()
            while lite.health("a").circuit_state != "closed":
                await lite.ask()
            await lite.settled()

        asyncio.run(asyncio.wait_for(play(), 30))
        assert lite.health("a").consecutive_failures == 0
        assert lite.calls("a") >= 2

    def test_a_trial_call_that_is_cancelled_gives_its_permit_back(self, lite):
        """Else nobody could try for as long as the process lives."""
        lite.start("a", breaker={"circuit": RECOVERS})
        lite.servers["a"].faults.extend([(503, {}), "hang"])

        async def play():
            assert await lite.asked() == "ServiceUnavailableError"
            await lite.settled()
            await until(lambda: lite.health("a").circuit_state == "half_open")
            task = await begun(lite)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            while await lite.asked() == "NobodyAvailable":
                await asyncio.sleep(0.005)  # until the permit is back

        asyncio.run(asyncio.wait_for(play(), 30))
        assert lite.calls("a") == 3

    def test_a_deployment_that_is_added_later(self, lite):
        """It is registered when it is first seen."""
        lite.start("a")
        lite.router.add_deployment(deployment(lite, "later"))

        async def play():
            for _ in range(20):
                await lite.ask()
            await lite.settled()

        asyncio.run(play())
        assert lite.calls("later") > 0
        assert lite.health("later").consecutive_successes == lite.calls("later")

    def test_an_id_that_litellm_made(self, lite, litellm, caplog):
        """It is used, and a warning says what is wrong with it."""
        lite.start("a")
        nameless = lite.deployment("nameless", "another")
        del nameless["model_info"]
        lite.breaker.register(litellm.Router(model_list=[nameless]).model_list)
        assert len([line for line in caplog.messages if "a deployment of another has no model_info.id" in line]) == 1


def deployment(lite, name, said=None):
    """As `Router.add_deployment` takes it."""
    from litellm.types.router import Deployment

    return Deployment(**(said or lite.deployment(name)))


async def begun(lite):
    """A request whose call is under way."""
    while True:
        task = asyncio.create_task(lite.ask())
        await until(lambda task=task: task.done() or lite.breaker.calls_under_way)
        if not task.done():
            return task
        task.exception()


class TestNobody:
    def test_the_user_sees_why(self, lite, litellm):
        """A 503 with the reasons and the time, at once: LiteLLM's retries are not waited for."""
        lite.start("a", breaker={"circuit": OPENS_AT_ONCE}, num_retries=5)
        lite.servers["a"].faults.extend([(503, {})] * 10)

        async def play():
            await lite.asked()
            await lite.settled()
            with pytest.raises(litellm.ServiceUnavailableError, match=r"a: circuit open until .*retry after") as caught:
                await lite.ask()
            return caught.value

        error = asyncio.run(play())
        assert error.status_code == 503
        assert 0 < int(error.response.headers["retry-after"]) <= 60
        assert error.reasons.keys() == {"a"}
        assert lite.calls("a") == 1

    def test_litellms_fallbacks_are_tried(self, lite):
        """Nobody is left of one group: LiteLLM asks the next one, and waits for nothing."""
        lite.start("a", breaker={"circuit": OPENS_AT_ONCE}, fallbacks=[{"gpt-4o": ["spare"]}])
        lite.router.add_deployment(deployment(lite, "b", lite.deployment("b", "spare")))
        lite.servers["a"].faults.extend([(503, {})] * 10)

        async def play():
            for _ in range(5):
                assert await lite.asked() == ""
                await lite.settled()

        asyncio.run(play())
        assert (lite.calls("a"), lite.calls("b")) == (1, 5)


class TestSafety:
    def test_an_error_in_here_fails_no_request(self, lite, monkeypatch, caplog):
        """Whatever hook it comes from: LiteLLM goes on as if we were not there."""
        lite.start("a")

        def broken(*_, **__):
            raise RuntimeError("a fault of ours")

        for name in ("take", "begin", "succeeded", "failed", "tidy", "vanished"):
            monkeypatch.setattr(lite.breaker._calls, name, broken, raising=True)

        async def play():
            for stream in (False, True):
                await lite.ask(stream=stream)

        asyncio.run(play())
        assert lite.calls("a") == 2
        assert len([line for line in caplog.messages if "LiteLLM goes on without it" in line]) == 1

    def test_redis_away_from_the_beginning(self, lite):
        """The process decides alone: the circuit opens for it."""
        from redis_router.testing.server import free_port

        lite.start(
            "a", "b", breaker={"redis": f"redis://127.0.0.1:{free_port()}/0", "circuit": OPENS_AT_ONCE}, num_retries=2
        )
        lite.servers["a"].faults.extend([(503, {})] * 100)

        async def play():
            for _ in range(10):
                assert await lite.asked() == ""
            await until(lambda: lite.health("a").circuit_state == "open" or lite.calls("a") == 0)

        asyncio.run(play())

    def test_completion_without_await_is_not_supported(self, lite, caplog):
        """It works as without us; a warning says so, once."""
        lite.start("a")
        for _ in range(2):
            lite.router.completion(model="gpt-4o", messages=[{"role": "user", "content": "Hello?"}])
        assert counted(lite, "a") == (0, 0, "")
        assert len([line for line in caplog.messages if "passes the fleet's breaker by" in line]) == 1

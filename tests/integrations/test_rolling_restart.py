"""A gateway process that is told to end while it has calls under way, some with a permit: it loses nothing."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from benchmarks.gateways import KINDS
from redis_router import Operator
from redis_router.store.connect import connect
from redis_router.testing.server import EmbeddedServer
from tests.support import eventually
from tests.support.documents import ROOT
from tests.support.http import llm_server

OURS = [name for name, kind in KINDS.items() if kind.ours]


class Asked:
    """One gateway of the benchmarks."""

    def __init__(self, kind, *places):
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "benchmarks.gateways", kind, *places]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, **pipes)
        assert self.said(1) == [{"ready": True}]

    def said(self, number):
        """So many of its next lines; LiteLLM prints others between them."""
        lines = (line for line in self.process.stdout if line.startswith("{"))
        return [json.loads(line) for _, line in zip(range(number), lines, strict=False)]

    def say(self, *words):
        self.process.stdin.write("".join(f"{json.dumps(each)}\n" for each in words))
        self.process.stdin.flush()

    def answered(self, number):
        """How many of so many requests at once were answered."""
        self.say(*({"number": each, "stream": False} for each in range(number)))
        return sum(said["answered"] for said in self.said(number))

    def held(self, paused, other):
        """One request after the other, until one is with the server whose streams pause."""
        while True:
            before, others = len(paused.asked), len(other.asked)
            self.say({"number": 0, "stream": True})
            eventually(lambda: len(paused.asked) > before or len(other.asked) > others, "somebody is asked")  # noqa: B023
            if len(paused.asked) > before:
                return
            assert self.said(1)[0]["answered"]


@pytest.mark.parametrize("kind", OURS)
def test_a_process_that_ends_loses_no_request_no_result_and_no_permit(kind):
    """Half of a stream has come, under a permit: it comes whole, is recorded, and the permit goes back."""
    if not importlib.util.find_spec(KINDS[kind].needs):
        (pytest.fail if os.environ.get("REDIS_ROUTER_NEEDS_LITELLM") else pytest.skip)(f"{kind} is not installed")
    with EmbeddedServer() as redis, llm_server() as bad, llm_server() as good, Operator(redis.url) as operator:
        gateway = Asked(kind, redis.url, bad.url, good.url)
        try:
            bad.always = (503, {})
            state = lambda: operator.status().records["bad"].circuit_state  # noqa: E731
            eventually(lambda: gateway.answered(4) == 4 and state() == "open", "it opens")
            failed = len(bad.asked)
            eventually(lambda: state() == "half_open", "it is half-open")
            bad.always = "paused"
            gateway.held(bad, good)
            assert permits(redis) >= 1
            gateway.say({"end": True})
            bad.goes_on.set()
            assert gateway.said(1)[0]["answered"]
            assert gateway.process.wait(30) == 0
        finally:
            gateway.process.kill()
            gateway.process.communicate()
        records = operator.status().records
        assert records["bad"].consecutive_successes == len(bad.asked) - failed == 1
        assert records["good"].consecutive_successes == len(good.asked)
        assert [operator.in_flight(name) for name in ("bad", "good")] == [0, 0]
        assert permits(redis) == 0


def permits(redis):
    """In flight over the fleet, as Redis has it."""
    with connect(redis.url) as client:
        return client.zcard("rr:{bad}:permits")

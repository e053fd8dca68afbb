"""One run of one policy: a Redis server, the providers, six gateways and the load, all of them new."""

import time
from contextlib import ExitStack

from benchmarks.fleet import gateway, load, providers
from benchmarks.fleet.log import Log
from benchmarks.fleet.policies import IN_LITELLM, OURS
from benchmarks.fleet.processes import PATIENCE, Child
from benchmarks.quality.worlds.shape import Shape
from redis_router.testing.server import EmbeddedServer
from tests.support.processes import WorkerProcess
from tests.support.servers import eventually

SETTLES = 0.5
"""Seconds from the last process's being ready to the first moment of the run."""


def play(policy: str, shape: Shape) -> Log:
    """Raises RuntimeError where a process fails or is late."""
    with ExitStack() as stack:
        redis = stack.enter_context(EmbeddedServer())
        sites = stack.enter_context(Child(providers.main, shape))
        ports = sites.hear()
        if policy == OURS or policy in IN_LITELLM:  # LiteLLM's cooldowns do without it
            worker = WorkerProcess(redis.url, "rr")
            stack.callback(worker.end)
            worker.wait_ready()
            eventually(lambda: worker.leads, "the worker leads")
        gateways = [stack.enter_context(Child(gateway.main, policy, redis.url, ports)) for _ in range(shape.replicas)]
        client = stack.enter_context(Child(load.main, shape, [each.hear() for each in gateways]))
        client.hear()
        begin = time.monotonic() + SETTLES
        for each in (sites, client, *gateways):
            each.tell(begin)
        requests = client.hear(shape.length + load.PATIENCE + PATIENCE)
        for each in (sites, *gateways):
            each.tell("over")
        return Log(requests, sites.hear(), sum(each.hear() for each in gateways))

"""The process that sends the requests: each when it is due, however many are under way."""

import asyncio
import sys
from collections.abc import Sequence

import httpx

from benchmarks.fleet.log import Request
from benchmarks.fleet.processes import Pipe
from benchmarks.quality.worlds.draw import arrivals
from benchmarks.quality.worlds.shape import Shape

PATIENCE = 30.0
"""Seconds after which nobody waits for a gateway any more."""


async def main(pipe: Pipe, shape: Shape, ports: Sequence[int]) -> None:
    """Tells that it is ready, hears when the run begins, and tells how every request went."""
    loop, coming = asyncio.get_running_loop(), arrivals(shape)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
    async with httpx.AsyncClient(timeout=PATIENCE, limits=limits) as http:
        pipe.tell(len(coming))
        begin = await pipe.hear()

        async def send(number: int, at: float, replica: int) -> Request:
            lag = loop.time() - begin - at
            try:
                answer = await http.post(f"http://127.0.0.1:{ports[replica]}/", content=str(number))
                status = answer.status_code
            except httpx.TransportError as error:  # nobody waits longer than this: the request failed
                print(f"gateway {replica} did not answer request {number}: {error!r}", file=sys.stderr, flush=True)
                status = 503
            if status not in (200, 503):
                raise RuntimeError(f"gateway {replica} answered request {number} with {status}: see what it printed")
            return Request(at, loop.time() - begin - at, status != 200, lag)

        async with asyncio.TaskGroup() as tasks:
            sent = []
            for number, (at, replica) in enumerate(coming):
                await asyncio.sleep(begin + at - loop.time())
                sent.append(tasks.create_task(send(number, at, replica)))
        pipe.tell([each.result() for each in sent])
        await pipe.hear()

"""The process of the providers: each a port of its own, all with the behaviour that the simulation has.

Slots, queues, service times and incidents are the code and the draws of `benchmarks.quality.worlds`; here the clock is
the wall's, and a client that gives up closes its connection.
"""

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from benchmarks.fleet import log
from benchmarks.fleet.processes import PATIENCE, Pipe
from benchmarks.fleet.wall import Wall
from benchmarks.fleet.web import serving
from benchmarks.quality.world import Answer
from benchmarks.quality.worlds.providers import Live, Served
from benchmarks.quality.worlds.shape import Shape, Site

PATH = "/v1/chat/completions"


async def main(pipe: Pipe, shape: Shape) -> None:
    """Tells the ports by name, hears when the run begins and that it is over, and tells all calls."""
    wall, calls = Wall(), list[log.Call]()
    async with AsyncExitStack() as stack:
        ports = {}
        for site in shape.sites:
            provider = Provider(shape, site, wall, calls)
            ports[site.name] = await stack.enter_async_context(serving(PATH, provider.complete))
        pipe.tell(ports)
        wall.begin = await pipe.hear()
        if await pipe.hear() is not None:
            pipe.tell([each for each in calls if each.at >= 0.0])


class Provider:
    """One provider as its clients see it: a small part of the OpenAI chat API.

    The message is the request's number: with it the service time is drawn, so that a request takes as long whoever
    chose this provider for it, measured or simulated.
    """

    def __init__(self, shape: Shape, site: Site, wall: Wall, calls: list[log.Call]) -> None:
        troubles = [each for each in shape.troubles if each.provider == site.name]
        self._live = Live(site, wall, troubles, site.slots)
        self._seed = f"{shape.seed} {shape.number}"
        self._calls = calls
        self._wall = wall

    async def complete(self, request: Request) -> Response:
        asked = await request.json()
        number, name = asked["messages"][-1]["content"], self._live.name
        self._calls.append(log.Call(self._wall.now, name, int(number) if number.isdecimal() else -1))
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def answer_with(answer: Answer, seconds: float) -> None:
            if not answered.done():
                answered.set_result(answer)

        draw = random.Random(f"{self._seed} {number} {name}")
        served = Served(self._live, 0, draw, 0.0, PATIENCE, lambda: None, answer_with)
        served.begin()
        gone: asyncio.Future[Any] = asyncio.ensure_future(request.receive())  # after the body: the client went away
        await asyncio.wait([answered, gone], return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not answered.done():
            served.give_up()
        return response_of(await answered, asked["model"])


def response_of(answer: Answer, model: str) -> Response:
    """As OpenAI says it."""
    if answer.status != 200:
        headers = {} if answer.retry_after is None else {"retry-after": f"{answer.retry_after:g}"}
        return JSONResponse({"error": {"message": "an incident", **asdict(answer)}}, answer.status or 504, headers)
    message = {"role": "assistant", "content": "Hello."}
    return JSONResponse(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    )

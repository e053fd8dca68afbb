"""One gateway process: a request comes in over HTTP, and its policy asks one provider after the other."""

import logging
import time
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from benchmarks.fleet.policies import IN_LITELLM, POLICIES
from benchmarks.fleet.processes import Pipe
from benchmarks.fleet.providers import PATH
from benchmarks.fleet.web import serving


async def main(pipe: Pipe, policy: str, redis: str, ports: Mapping[str, int]) -> None:
    """Tells its port, hears when the run begins and that it is over, and tells the CPU seconds of the run."""
    logging.getLogger("redis_router").setLevel(logging.ERROR)
    addresses = {name: f"http://127.0.0.1:{port}{PATH}" for name, port in ports.items()}
    async with (POLICIES | IN_LITELLM)[policy](redis, addresses) as ask:

        async def answer(request: Request) -> Response:
            return Response(status_code=200 if await ask((await request.body()).decode()) else 503)

        async with serving("/", answer) as port:
            pipe.tell(port)
            await pipe.hear()
            before = time.process_time()
            if await pipe.hear() is not None:
                pipe.tell(time.process_time() - before)

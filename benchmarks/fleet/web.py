"""How the processes of the fleet listen: HTTP on 127.0.0.1, on ports that are free."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

IDLE = 600
"""Seconds: it is clients who close connections that idle. Else one sends a request while the server closes."""


@asynccontextmanager
async def serving(path: str, answer: Callable[..., Any]) -> AsyncIterator[int]:
    """Answer POST to this path while the block runs; gives the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        # What connections inherit: else asyncio leaves Nagle's algorithm on, and a small answer waits 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        app = Starlette(routes=[Route(path, answer, methods=["POST"])])
        config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_keep_alive=IDLE)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = server.force_exit = True
            await task

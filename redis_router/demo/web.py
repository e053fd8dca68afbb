"""Serving an ASGI app from a demo process, and its line protocol: one JSON object a line on stdout."""

import asyncio
import json
import signal
import socket
import sys
import time
from typing import Any

import uvicorn


def tell(what: str, **facts: Any) -> None:
    """Write one line for whoever started this process; `t` is wall-clock time in seconds."""
    sys.stdout.write(json.dumps({"t": time.time(), "what": what, **facts}) + "\n")
    sys.stdout.flush()


def serve(app: Any, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; port 0 takes a free one. Tells `ready` with the port that was bound."""
    sock = socket.create_server((host, port))
    tell("ready", port=sock.getsockname()[1])
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    try:
        asyncio.run(server.serve(sockets=[sock]))
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

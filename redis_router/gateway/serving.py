"""uvicorn beneath the gateway: its processes, and what each of them is told."""

import ipaddress
import json
import os
import signal
import socket
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from uvicorn.supervisors import Multiprocess

from redis_router.errors import InvalidArgument
from redis_router.gateway.app import Gateway
from redis_router.runtime.log import log, log_to_stderr

_TOLD = "REDIS_ROUTER_GATEWAY"
_FILES = "PROMETHEUS_MULTIPROC_DIR"
_BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75
"""For an idle connection: longer than the pools of most clients and proxies, so that these end it."""


@dataclass(frozen=True, slots=True)
class Serving:
    """How it is served.

    config   the file
    port     0 takes a free one
    workers  processes
    works    do they take part in the election of the fleet's worker?
    drain_seconds  from SIGTERM until it stops listening
    end_seconds    from then on, for what is under way
    """

    config: str
    redis: str
    namespace: str
    host: str
    port: int
    workers: int
    works: bool
    drain_seconds: float
    end_seconds: float


def serve(told: Serving) -> None:
    """Until SIGTERM or SIGINT. Raises InvalidArgument where nobody can listen there."""
    with _listener(told) as listener, tempfile.TemporaryDirectory(prefix="redis-router-metrics-") as folder:
        os.environ[_TOLD] = json.dumps(asdict(told))
        if told.workers > 1:
            os.environ.setdefault(_FILES, folder)
        config = uvicorn.Config(
            "redis_router.gateway.serving:app",
            factory=True,
            workers=told.workers,
            http="redis_router.gateway.protocol:Bounded",
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(told.end_seconds)),
        )
        host, port = listener.getsockname()[:2]
        log.info("gateway at http://%s:%d/v1", f"[{host}]" if ":" in host else host, port)
        signal.signal(signal.SIGTERM, _is_done)
        if told.workers > 1:
            _Processes(config, [listener]).run()
        else:
            with suppress(KeyboardInterrupt):
                uvicorn.Server(config).run([listener])


class _Processes(Multiprocess):
    """uvicorn's, which passes on the second signal, too: it skips what the first one began."""

    def join_all(self) -> None:
        while alive := [each.process for each in self.processes if each.process.is_alive()]:
            if self.signal_queue:
                self.signal_queue.clear()
                for process in alive:
                    process.terminate()
            alive[0].join(0.1)


def _listener(told: Serving) -> socket.socket:
    try:
        family = socket.getaddrinfo(told.host, told.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((told.host, told.port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise InvalidArgument(f"cannot listen at {told.host}, port {told.port}: {error}") from None


def is_this_machine(host: str) -> bool:
    """Can nobody else reach what is bound to that host?"""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return host == "localhost"


def _is_done(number: int, frame: object) -> None:
    """uvicorn raises the signal again that ended it, which would make a failure of an end in order."""


def app() -> Starlette:
    """What each process serves."""
    log_to_stderr()  # with --workers this is a process that inherits nothing of it
    told = Serving(**json.loads(os.environ[_TOLD]))
    gateway = Gateway(
        Path(told.config),
        told.redis,
        told.namespace,
        works=told.works,
        drain_seconds=told.drain_seconds,
        needs_keys=not is_this_machine(told.host),
    )
    return gateway.app

"""uvicorn beneath the gateway: its processes, and what each of them is told."""

import json
import os
import signal
import socket
import tempfile
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict

import uvicorn
from starlette.applications import Starlette
from uvicorn.supervisors import Multiprocess

from redis_router.errors import InvalidArgument
from redis_router.gateway.app import Gateway
from redis_router.gateway.settings import Serving
from redis_router.runtime.log import log, log_to_stderr

_TOLD = "REDIS_ROUTER_GATEWAY"
_FILES = "PROMETHEUS_MULTIPROC_DIR"
_BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75
"""For an idle connection: longer than the pools of most clients and proxies, so that these end it."""


def serve(told: Serving) -> None:
    """Until SIGTERM or SIGINT. Raises InvalidArgument where nobody can listen there."""
    with _listener(told) as listener, _folder(told.workers) as folder:
        os.environ[_TOLD] = json.dumps(asdict(told))
        if folder:
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


def _folder(workers: int) -> AbstractContextManager[str]:
    """Where several processes bring their metrics together; one alone writes nothing. Raises InvalidArgument."""
    given = os.environ.get(_FILES)
    if given and not (os.path.isdir(given) and os.access(given, os.W_OK)):
        raise InvalidArgument(f"{_FILES} is {given}: make that folder, writable for the gateway, or unset it")
    return tempfile.TemporaryDirectory(prefix="redis-router-metrics-") if workers > 1 else nullcontext("")


class _Processes(Multiprocess):
    """At the end this process has to let go of the port as well, or connections would wait in it for nobody."""

    def terminate_all(self) -> None:
        super().terminate_all()
        for each in self.sockets:
            each.close()

    def join_all(self) -> None:
        """A second signal is passed on, too: it skips what the first one began."""
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


def _is_done(number: int, frame: object) -> None:
    """uvicorn raises the signal again that ended it, which would make a failure of an end in order."""


def app() -> Starlette:
    """What each process serves. One of several is a fresh interpreter, and nothing is set up in it."""
    log_to_stderr()
    return Gateway(Serving(**json.loads(os.environ[_TOLD]))).app

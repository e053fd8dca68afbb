"""The worker's HTTP side: /metrics for Prometheus, /healthz and /readyz for who restarts and routes, and the page."""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from redis_router.errors import InvalidArgument
from redis_router.operate.wsgi import WsgiPage
from redis_router.runtime.log import log
from redis_router.telemetry.exposition import make_wsgi_app, scrape_registry
from redis_router.worker.checker import HealthChecker

PATIENCE = 5.0
"""Seconds for a client to say what it wants; Prometheus takes a millisecond."""
ANSWER_SECONDS = 30.0
"""Seconds for the answer to be made and taken."""
MOST_CONNECTIONS = 32
"""Each holds a thread. One more, and the oldest is cut off."""


class _Server(ThreadingMixIn, WSGIServer):
    """Cuts off who takes too long, however many bytes come meanwhile."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        self._until: dict[socket.socket, float] = {}  # in the order in which they came
        self._lock = threading.RLock()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            for oldest in list(self._until)[: len(self._until) + 1 - MOST_CONNECTIONS]:
                self._cut_off(oldest)
            self._until[request] = time.monotonic() + PATIENCE
        super().process_request(request, client_address)

    def was_asked(self, request: socket.socket) -> None:
        """It said what it wants."""
        with self._lock:
            if request in self._until:
                self._until[request] = time.monotonic() + ANSWER_SECONDS

    def service_actions(self) -> None:
        now = time.monotonic()
        with self._lock:
            for late in [request for request, until in self._until.items() if until < now]:
                self._cut_off(late)

    def _cut_off(self, request: socket.socket) -> None:
        """Its thread stumbles over it, and ends."""
        del self._until[request]
        with suppress(OSError):  # gone already
            request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._until.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # who hangs up is no news
            log.exception("a request of %s failed", client_address[0])


class _ServerByIPv6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    server: _Server

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        self.server.was_asked(self.connection)
        return True

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes and health checks are no news."""


OWN = ("/metrics", "/healthz", "/readyz")


class _Pages:
    """The WSGI application."""

    def __init__(self, checker: HealthChecker, page: WsgiPage | None) -> None:
        self._checker = checker
        self._page = page

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            metrics: Callable[..., Iterable[bytes]] = make_wsgi_app(scrape_registry())
            return metrics(environ, start_response)
        if self._page is not None and path not in OWN:
            return self._page(environ, start_response)
        status, text = self._answer(path)
        start_response(f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]

    def _answer(self, path: str) -> tuple[HTTPStatus, str]:
        checker = self._checker
        if path == "/healthz":
            return (HTTPStatus.OK, "alive") if checker.alive else (HTTPStatus.SERVICE_UNAVAILABLE, "stuck")
        if path != "/readyz":
            return HTTPStatus.NOT_FOUND, f"try {', '.join(OWN)}; the page is off: see --page of redis-router worker"
        if not checker.redis_up:
            return HTTPStatus.SERVICE_UNAVAILABLE, "Redis is not reachable"
        return HTTPStatus.OK, "leader" if checker.is_leader else "standby"


class Endpoints:
    """Serves until `close()`. Port 0 takes a free one; `port` says which. Raises InvalidArgument where it is taken.

    `page` has what is not of the worker itself.
    """

    def __init__(self, host: str, port: int, checker: HealthChecker, page: WsgiPage | None = None) -> None:
        address = host.removeprefix("[").removesuffix("]")
        by_ipv6 = ":" in address
        shown = f"[{address}]" if by_ipv6 else address
        try:
            pages = _Pages(checker, page)
            self._server = make_server(address, port, pages, _ServerByIPv6 if by_ipv6 else _Server, _Handler)
        except (OSError, OverflowError) as error:
            raise InvalidArgument(
                f"cannot serve metrics at {shown}:{port} ({error}): choose another --metrics-port, or 0 for a free one,"
                " or another --metrics-host"
            ) from None
        self.port: int = self._server.server_port
        self.url = f"http://{shown}:{self.port}"
        threading.Thread(target=self._server.serve_forever, name="redis-router-http", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

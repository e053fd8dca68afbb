"""The worker's HTTP side: /metrics for Prometheus, /healthz and /readyz for whoever restarts and routes."""

import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from redis_router.errors import InvalidArgument
from redis_router.exposition import make_wsgi_app, scrape_registry

Answer = tuple[bool, str]
"""Is all well, and a word on it."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes and health checks are no news."""


class Endpoints:
    """Serves until `close()`. Port 0 takes a free one; `port` says which. Raises InvalidArgument where it is taken."""

    def __init__(
        self,
        host: str,
        port: int,
        healthz: Callable[[], Answer],
        readyz: Callable[[], Answer],
    ) -> None:
        checks = {"/healthz": healthz, "/readyz": readyz}

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            path = environ["PATH_INFO"]
            if path == "/metrics":
                metrics: Callable[..., Iterable[bytes]] = make_wsgi_app(scrape_registry())
                return metrics(environ, start_response)
            well, text = checks[path]() if path in checks else (False, "try /metrics, /healthz or /readyz")
            status = "404 Not Found" if path not in checks else "200 OK" if well else "503 Service Unavailable"
            start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{text}\n".encode()]

        try:
            self._server = make_server(host, port, app, _Server, _Quiet)
        except (OSError, OverflowError) as error:
            raise InvalidArgument(
                f"cannot serve metrics at {host}:{port} ({error}): choose another --metrics-port, or 0 for a free one"
            ) from None
        self.port: int = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="redis-router-http", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

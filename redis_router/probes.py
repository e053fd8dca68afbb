"""Is a provider there? HTTP that answers below 400, or TCP that accepts a connection."""

import socket
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_random

from redis_router.errors import RouterError


class ProbeFailed(Exception):
    """The provider did not pass; the text says why."""


class ProbeImpossible(RouterError):
    """The probe cannot be made here; says nothing about the provider."""


class Prober:
    """Makes probes; threads may share it. `timeout` in seconds bounds the connect and each wait for an answer."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._http: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections."""
        if self._http is not None:
            self._http.close()

    def check(self, url: str) -> str | None:
        """None where the provider passes, else why it does not. A failed connection gets one more try at once.

        Raises ProbeImpossible.
        """
        attempt = self._tcp if url.startswith("tcp://") else self._web
        tries = Retrying(
            stop=stop_after_attempt(2), wait=wait_random(0.05, 0.2), retry=retry_if_exception_type(OSError)
        )
        try:
            tries(attempt, url)
        except ProbeFailed as failure:
            return str(failure)
        except RetryError as failed:
            return str(failed.last_attempt.exception())
        return None

    def _tcp(self, url: str) -> None:
        parts = urlsplit(url)
        socket.create_connection((parts.hostname or "", parts.port or 0), self._timeout).close()

    def _web(self, url: str) -> None:
        try:
            import httpx
        except ImportError:
            raise ProbeImpossible(f"cannot probe {url}: httpx is missing, install redis-llm-router[worker]") from None
        if self._http is None:
            self._http = httpx.Client(timeout=self._timeout, headers={"user-agent": "redis-router-probe"})
        try:
            with self._http.stream("GET", url) as answer:  # the status is enough: some endpoints never end
                status = answer.status_code
        except httpx.ConnectError as error:
            raise ConnectionError(str(error)) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ProbeFailed(f"{type(error).__name__}: {error}") from error
        if status >= 400:
            raise ProbeFailed(f"HTTP {status}")

"""Is a provider there? HTTP that answers below 400, or TCP that accepts a connection."""

import os
import re
import socket
from collections.abc import Collection
from functools import partial
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_random

from redis_router.errors import InvalidArgument, RouterError
from redis_router.probe import VARIABLE, Probe


class ProbeFailed(Exception):
    """The provider did not pass; the text says why."""


class ProbeImpossible(RouterError):
    """The probe cannot be made here; says nothing about the provider."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"cannot probe {url}: {why}")
        self.why = why


class Prober:
    """Makes probes; threads may share it. `timeout` in seconds bounds the connect and each wait for an answer.

    `env` names the environment variables that the headers of a probe may hold.
    """

    def __init__(self, timeout: float, env: Collection[str] = ()) -> None:
        if isinstance(env, str):
            raise InvalidArgument(f"probe_env is {env!r}: give a list of names, such as ['OPENAI_API_KEY']")
        self._timeout = timeout
        self._env = frozenset(env)
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

    def check(self, probe: Probe) -> str | None:
        """None where the provider passes, else why it does not. A failed connection gets one more try at once.

        Raises ProbeImpossible.
        """
        attempt = self._tcp if probe.url.startswith("tcp://") else self._web
        tries = Retrying(
            stop=stop_after_attempt(2), wait=wait_random(0.05, 0.2), retry=retry_if_exception_type(OSError)
        )
        try:
            tries(attempt, probe)
        except ProbeFailed as failure:
            return str(failure)
        except RetryError as failed:
            return str(failed.last_attempt.exception())
        return None

    def _tcp(self, probe: Probe) -> None:
        parts = urlsplit(probe.url)
        socket.create_connection((parts.hostname or "", parts.port or 0), self._timeout).close()

    def _web(self, probe: Probe) -> None:
        try:
            import httpx
        except ImportError:
            raise ProbeImpossible(probe.url, "httpx is missing, install redis-llm-router[worker]") from None
        headers = {name: VARIABLE.sub(partial(self._filled_in, probe), text) for name, text in probe.headers.items()}
        if self._http is None:
            self._http = httpx.Client(timeout=self._timeout, headers={"user-agent": "redis-router-probe"})
        try:
            # the status is enough: some endpoints never end
            with self._http.stream(probe.method, probe.url, headers=headers) as answer:
                status = answer.status_code
        except httpx.ConnectError as error:
            raise ConnectionError(str(error)) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ProbeFailed(f"{type(error).__name__}: {error}") from error
        if status != probe.status if probe.status is not None else status >= 400:
            raise ProbeFailed(f"HTTP {status}" + (f", expected {probe.status}" if probe.status is not None else ""))

    def _filled_in(self, probe: Probe, found: re.Match[str]) -> str:
        """The variable's value; whoever can write to Redis must not be able to ask for just any."""
        name = found[1]
        if name not in self._env:
            raise ProbeImpossible(probe.url, f"start the worker with --probe-env {name}")
        value = os.environ.get(name, "")
        if not value or not value.isascii() or not value.isprintable():
            raise ProbeImpossible(probe.url, f"the worker's environment has no usable {name}")
        return value

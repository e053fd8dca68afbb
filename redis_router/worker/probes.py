"""Is a provider there? HTTP that answers below 400, or TCP that accepts a connection: how one probe is made."""

import asyncio
import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random

from redis_router.probe import VARIABLE, Probe
from redis_router.worker.lookups import NoLookUp
from redis_router.worker.options import WorkerOptions

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


class ProbeFailed(Exception):
    """The provider did not pass; the text says why."""


class ProbeImpossible(Exception):
    """The probe cannot be made by this worker; says nothing about the provider."""


class NotAsked(Exception):
    """The provider was not asked, because this machine is short of something; the next probe may be."""


class Asker:
    """Asks providers, on one event loop. Nothing is kept from one probe for the next: no cookie, no connection."""

    def __init__(self, options: WorkerOptions) -> None:
        self._env = frozenset(options.probe_env)
        self._certificates: Any = None

    def load(self) -> None:
        """What takes a while, ahead of the first probe, whose time runs."""
        with suppress(ImportError, OSError):  # each probe says so
            import httpx

            self._certificates = httpx.create_ssl_context()
            httpx.AsyncClient(verify=self._certificates)

    async def ask(self, probe: Probe) -> None:
        """Returns where the provider passes. A failed connection gets one more try at once.

        Raises ProbeFailed, ProbeImpossible or NotAsked.
        """
        attempt = self._tcp if probe.url.startswith("tcp://") else self._web
        tries = AsyncRetrying(
            stop=stop_after_attempt(2),
            wait=wait_random(0.05, 0.2),
            retry=retry_if_exception_type(OSError),
            reraise=True,
        )
        try:
            await tries(attempt, probe)
        except (ProbeFailed, ProbeImpossible):
            raise
        except Exception as error:  # whatever a URL or a proxy can do to an HTTP client: the probe did not pass
            if any(map(_is_ours, _causes(error))):
                raise NotAsked(f"{type(error).__name__}: {error}") from error
            raise ProbeFailed(words(error)) from error

    async def _tcp(self, probe: Probe) -> None:
        parts = urlsplit(probe.url)
        _, writer = await asyncio.open_connection(parts.hostname, parts.port, happy_eyeballs_delay=0.25)
        writer.close()

    async def _web(self, probe: Probe) -> None:
        try:
            import httpx
        except ImportError:
            raise ProbeImpossible("httpx is missing, install redis-llm-router[worker]") from None
        headers = {name: VARIABLE.sub(self._filled_in, text) for name, text in probe.headers.items()}
        headers = {"user-agent": "redis-router-probe", **headers}
        try:
            self._certificates = self._certificates or httpx.create_ssl_context()
        except OSError as error:
            raise ProbeImpossible(f"the certificates to trust cannot be loaded: {error}") from None
        try:
            # no timeout of its own: all of a probe has one. The status is enough: some endpoints never end
            async with (
                httpx.AsyncClient(verify=self._certificates, timeout=None) as client,
                client.stream(probe.method, probe.url, headers=headers) as answer,
            ):
                status = answer.status_code
        except httpx.ConnectError as error:
            raise ConnectionError(str(error)) from error
        if status != probe.status if probe.status is not None else status >= 400:
            raise ProbeFailed(f"HTTP {status}" + (f", expected {probe.status}" if probe.status is not None else ""))

    def _filled_in(self, found: re.Match[str]) -> str:
        """The variable's value; whoever can write to Redis must not be able to ask for just any."""
        name = found[1]
        if name not in self._env:
            raise ProbeImpossible(f"start the worker with --probe-env {name}")
        value = os.environ.get(name, "")
        if not value or not value.isascii() or not value.isprintable():
            raise ProbeImpossible(f"the worker's environment has no usable {name}")
        return value


def words(error: Exception) -> str:
    """What the system said, where it did: libraries say it in words of their own, or not at all."""
    for each in _causes(error):
        if isinstance(each, ssl.SSLError | socket.gaierror):  # these have numbers of their own
            return str(each)
        if isinstance(each, OSError) and each.errno:
            return os.strerror(each.errno)
    return f"{type(error).__name__}: {error}"


def _is_ours(error: BaseException) -> bool:
    """Is this machine to blame, and not the provider?"""
    return isinstance(error, NoLookUp | MemoryError) or (isinstance(error, OSError) and error.errno in _SHORTAGES)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came from, and so on."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for each in error.exceptions:
                yield from _causes(each)
        error = error.__cause__ or error.__context__

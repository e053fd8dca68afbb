"""One POST to the webhook, bounded as a whole, and what its answer means."""

import asyncio
import logging
import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from redis_router.errors import InvalidArgument
from redis_router.worker.lookups import LookUpLoop
from redis_router.worker.notices import Message
from redis_router.worker.probes import words
from redis_router.worker.webhook import Webhook, headers

TIME_OUT = 10.0
"""Seconds for all of it: look-up, connection, answer."""
_CLOSING = 0.01
"""Seconds for the loop to close the sockets of what ended: it runs no longer than a message takes."""
MOST_PATIENCE = 300.0
"""Seconds: a receiver that asks for more is asked again after so many."""


class TryAgain(Exception):
    """It may be taken later; `after` is how many seconds the receiver asked for, 0 where it did not."""

    def __init__(self, why: str, after: float = 0.0) -> None:
        super().__init__(why)
        self.after = after


class NotTaken(Exception):
    """The receiver refuses it, however often it is sent."""


class Delivery:
    """One thread uses it. Raises InvalidArgument where httpx is missing."""

    def __init__(self, webhook: Webhook) -> None:
        try:
            import httpx
        except ImportError:
            raise InvalidArgument("a webhook needs httpx: install redis-llm-router[worker]") from None
        self._httpx = httpx
        self._webhook = webhook
        try:
            shown = str(httpx.URL(webhook.url))
        except httpx.InvalidURL:
            raise InvalidArgument("the webhook's URL is not usable: an HTTP client refuses it") from None
        self._certificates: Any = None
        self._runner: asyncio.Runner | None = None
        self._filter = _HidesUrl(webhook.url, shown)
        logging.getLogger("httpx").addFilter(self._filter)

    def post(self, message: Message) -> None:
        """Returns where it was taken. Raises TryAgain or NotTaken."""
        try:
            if self._runner is None:
                self._runner = asyncio.Runner(loop_factory=LookUpLoop)
            status, retry_after = self._runner.run(self._post(message))
        except TimeoutError:
            raise TryAgain(f"no answer within {TIME_OUT:g} s") from None
        except Exception as error:  # whatever a proxy can do to an HTTP client: it was not taken
            raise TryAgain(words(error)) from error
        if status in _LATER or status >= 500:
            raise TryAgain(f"HTTP {status}", seconds_to_wait(retry_after))
        if 300 <= status < 400:
            raise NotTaken(f"HTTP {status}: redirects are not followed, give the address itself")
        if not 200 <= status < 300:
            raise NotTaken(f"HTTP {status}")

    def close(self) -> None:
        """By the thread that used it."""
        logging.getLogger("httpx").removeFilter(self._filter)
        if self._runner is not None:
            self._runner.close()

    async def _post(self, message: Message) -> tuple[int, str]:
        httpx = self._httpx
        self._certificates = self._certificates or httpx.create_ssl_context()
        signed = headers(message.id, int(time.time()), message.body, self._webhook.secret)
        # the status is enough: what follows is not read. Each has a client of its own, so no connection goes stale
        try:
            async with (
                asyncio.timeout(TIME_OUT),
                httpx.AsyncClient(verify=self._certificates, timeout=None, follow_redirects=False) as client,
                client.stream("POST", self._webhook.url, content=message.body, headers=signed) as answer,
            ):
                return answer.status_code, answer.headers.get("retry-after", "")
        finally:
            await asyncio.sleep(_CLOSING)


_LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


def seconds_to_wait(said: str) -> float:
    """What a Retry-After header asks for, in seconds or as a date; 0 where it says nothing."""
    try:
        seconds = float(said) if said.strip().isdecimal() else parsedate_to_datetime(said).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(0.0, seconds), MOST_PATIENCE)


class _HidesUrl(logging.Filter):
    """httpx logs the URL of each request, and this one may be a secret."""

    def __init__(self, *forms: str) -> None:
        super().__init__()
        self._forms = forms

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        return not any(form in said for form in self._forms)

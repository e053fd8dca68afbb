"""When a provider may be called again, by its headers: where it refused a call, or answered the last one to fit."""

import math
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds until the provider may be called again; None where its headers do not say. Names in lower case.

    `retry-after-ms`, `Retry-After` in seconds or as an HTTP date (by the answer's own `Date`, where it has one), then
    the resets of what is used up: `x-ratelimit-reset-requests: 6m0s` (openai), `anthropic-ratelimit-tokens-reset` (a
    moment). `now` is in seconds since the epoch.
    """
    now = time.time() if now is None else now
    if (milliseconds := _float(headers.get("retry-after-ms"))) is not None:
        return max(0.0, milliseconds / 1000)
    if (said := headers.get("retry-after")) is not None:
        wait = _float(said)
        if wait is None and (moment := _http_date(said)) is not None:
            wait = moment - (_http_date(headers.get("date", "")) or now)
        if wait is not None:
            return max(0.0, wait)
    waits: dict[str, float] = {}
    for name, value in headers.items():
        if "ratelimit" in name and "reset" in name and (until := _duration(value, now)) is not None:
            waits[name] = max(0.0, until)
    used_up = [wait for name, wait in waits.items() if _float(headers.get(name.replace("reset", "remaining"))) == 0]
    return max(used_up) if used_up else min(waits.values(), default=None)


ENOUGH_TOKENS = 0.01
"""So much of a limit on tokens is back before the next call: how many that one needs, nobody knows."""


def nothing_left(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds until a provider that answered takes another call; None where it has something left, or does not say.

    Of each limit it says what is left and until when it is full again: `x-ratelimit-remaining-requests: 0`, with
    `-limit-requests` and `-reset-requests` (openai), or `anthropic-ratelimit-tokens-remaining`, `-limit`, `-reset`.
    They fill up steadily, so that one request fits after reset / limit. Limits of 0 or less are none (Azure). Names in
    lower case; `now` is in seconds since the epoch, by default the answer's own `Date`.
    """
    if now is None:
        now = _http_date(headers.get("date", "")) or time.time()
    waits = []
    for name, value in headers.items():
        if "ratelimit" not in name or "remaining" not in name or _float(value) != 0:
            continue
        limit = _float(headers.get(name.replace("remaining", "limit"))) or 0.0
        full_in = _duration(headers.get(name.replace("remaining", "reset"), ""), now) or 0.0
        if limit > 0 and full_in > 0:
            waits.append(full_in * min(1.0, max(1 / limit, ENOUGH_TOKENS if "token" in name else 0.0)))
    return max(waits, default=None)


def _float(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _http_date(text: str) -> float | None:
    try:
        return _as_utc(parsedate_to_datetime(text)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[dhms])")


def _duration(text: str, now: float) -> float | None:
    """Seconds: 20, 20ms, 6m0s, a moment as seconds or ms since the epoch, or 2026-11-23T18:00:00Z."""
    text = text.strip()
    if (number := _float(text)) is not None:
        number = number / 1000 if number > 1e11 else number
        return number - now if number > 1e9 else number
    if _PART.sub("", text) == "" and text:
        return _float(str(sum(float(value) * _UNITS[unit] for value, unit in _PART.findall(text))))
    try:
        return _as_utc(datetime.fromisoformat(text)).timestamp() - now
    except (ValueError, OverflowError):
        return None


def _as_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)

"""When a provider that refused a call may be called again: what its headers say."""

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

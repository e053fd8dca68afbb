"""What arguments must look like: each check returns the value, or raises InvalidArgument that says what would do."""

import ipaddress
import math
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from redis_router.errors import InvalidArgument

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,63}")
_REASON = re.compile(r"[A-Za-z0-9_.-]{0,40}")
_MAX_MODEL_CHARS = 256
MAX_REASON = 200
"""Characters of an operator's reason."""
_MAX_COUNT = 1_000_000
_MAX_SECONDS = 7 * 24 * 3600.0
_MAX_LATENCY_MS = _MAX_SECONDS * 1000

NO_PROBE = "none"
"""As `Provider.probe`: take away the probe that the fleet has for this provider."""


def check_name(what: str, value: object) -> str:
    """A provider name, namespace or replica id: short, printable, and unable to reach another Redis key."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidArgument(
            f"{what} {value!r} is not usable: give 1 to 64 letters, digits or . _ : / @ -, the first a letter or digit"
        )
    return value


def check_names(what: str, value: object) -> None:
    """A collection of provider names; one name alone would be taken for its letters."""
    if (
        isinstance(value, str | bytes)
        or not isinstance(value, Collection)
        or not all(isinstance(n, str) for n in value)
    ):
        raise InvalidArgument(f"{what} is {value!r}: give a list of provider names, such as ['openai']")


def check_number(what: str, value: object, *, above: float | None = None, least: float = 0.0, most: float) -> float:
    """A finite number with `least <= value <= most` (or `above < value`), as a float."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # the bounds first: a whole number may be too large to be a float
    if number and value <= most and (value > above if above is not None else value >= least) and math.isfinite(value):  # type: ignore[arg-type, operator]
        return float(value)  # type: ignore[arg-type]
    bounds = f"above {above:g}" if above is not None else f"from {least:g}"
    raise InvalidArgument(f"{what} is {value!r}: give a finite number {bounds} up to {most:g}")


def check_count(what: str, value: object, *, least: int = 1, most: int = _MAX_COUNT) -> int:
    """A whole number from `least` up."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise InvalidArgument(f"{what} is {value!r}: give a whole number from {least} to {most}")


def check_flag(what: str, value: object) -> bool:
    """True or False, and not what merely counts as such: "no" would count as True."""
    if value is True or value is False:
        return bool(value)
    raise InvalidArgument(f"{what} is {value!r}: give True or False")


def check_seconds(what: str, value: object) -> float:
    """A duration in seconds, at least a millisecond (the resolution of the record) and at most a week."""
    return check_number(what, value, least=0.001, most=_MAX_SECONDS)


def check_weight(value: object) -> float:
    """A routing weight: 0 for no calls at all, or a share."""
    if value == 0 and not isinstance(value, bool):
        return 0.0
    try:
        return check_number("weight", value, least=1e-6, most=1e6)
    except InvalidArgument as error:
        raise InvalidArgument(f"{error}; or 0, for no calls at all") from None


def check_latency(value: object) -> float:
    """A latency in milliseconds; 0 means "not measured" and moves no average."""
    if type(value) is float and 0.0 <= value <= _MAX_LATENCY_MS:  # nearly always: this is on the request path
        return value
    return check_number("latency_ms", value, most=_MAX_LATENCY_MS)


def check_reason(value: object) -> str:
    """Why a call failed, in one word that can stand in a record and a metric's label; '' for no word."""
    if isinstance(value, str) and _REASON.fullmatch(value):
        return value
    raise InvalidArgument(f"reason {value!r} is not usable: give at most 40 letters, digits or _ . -")


def check_text(what: str, value: object, most: int) -> str:
    """A short text for people, on one line; '' for none."""
    if isinstance(value, str) and len(value) <= most and value.isprintable():
        return value
    shown = (
        f"{value[:40]!r}… of {len(value)} characters" if isinstance(value, str) and len(value) > most else repr(value)
    )
    raise InvalidArgument(f"{what} is {shown}: give at most {most} printable characters, on one line")


def check_model(value: object) -> str:
    """A model name as a provider registers it, surrounding blanks removed."""
    name = value.strip() if isinstance(value, str) else ""
    if name and len(name) <= _MAX_MODEL_CHARS and name.isprintable():
        return name
    raise InvalidArgument(
        f"model {value!r} is not usable: give 1 to {_MAX_MODEL_CHARS} printable characters, or '*' for every model"
    )


def check_part(provider: str, model: str) -> str:
    """The name of the record that a model of a provider with `circuit_per_model` has."""
    part = f"{provider}/{model}"
    if model != "*" and _NAME.fullmatch(part):
        return part
    raise InvalidArgument(
        f"provider {provider!r} cannot have a circuit for model {model!r} (its record would be {part!r}): name models"
        " of letters, digits or . _ : / @ -, at most 64 characters together, not '*'"
    )


def check_probe_url(what: str, url: object) -> str:
    """A probe target: http://, https:// or tcp:// with a host (and, for tcp, a port).

    Without a login: it is stored in Redis in clear, and what fetches it may log it.
    """
    usable, shown = False, url
    if isinstance(url, str):
        try:
            parts = urlsplit(url)
            shown = url.replace(f"{parts.username or ''}:{parts.password}@", "…@") if parts.password else url
            port = parts.port  # raises ValueError beyond 65535
            usable = (
                bool(parts.hostname)
                and parts.username is None
                and url.isprintable()
                and " " not in url
                and (parts.scheme in ("http", "https") or (parts.scheme == "tcp" and bool(port)))
            )
        except ValueError:
            usable = False
    if usable and isinstance(url, str):
        return url
    raise InvalidArgument(
        f"{what} is {shown!r}: give http://host/path, https://host/path or tcp://host:port, without user and password"
    )


def is_this_machine(host: str) -> bool:
    """Can nobody else reach what is bound to that host?"""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return host == "localhost"

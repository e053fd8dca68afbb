"""Where the leader tells what happened, and how a message is signed: by the Standard Webhooks specification."""

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from redis_router.errors import InvalidArgument

LEAST_SECRET = 16
"""Characters: a shorter one could be guessed."""
_PREFIX = "whsec_"
"""Of a secret in base64, as the specification has it."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that the leading worker POSTs transitions and overrides to.

    url     http:// or https://, without user and password. It is kept out of logs: with many services it is a secret
    secret  signs the messages; '' for none. At least 16 characters; in base64 after `whsec_`, else as it is

    Raises InvalidArgument, without naming either.
    """

    url: str = field(repr=False)
    secret: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not _is_usable(self.url):
            raise InvalidArgument(
                "the webhook's URL is not usable: give http://host/path or https://host/path, without user and password"
            )
        if not isinstance(self.secret, str) or 0 < len(self.secret) < LEAST_SECRET or not self.secret.isprintable():
            raise InvalidArgument(f"the webhook's secret is not usable: give at least {LEAST_SECRET} characters")
        key_of(self.secret)

    @property
    def host(self) -> str:
        """For people and the log: the rest of a URL may be a secret."""
        return urlsplit(self.url).hostname or ""


def _is_usable(url: object) -> bool:
    if not isinstance(url, str) or not url.isprintable() or not url.isascii() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  it raises ValueError beyond 65535
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None


def key_of(secret: str) -> bytes:
    """The bytes that sign. Raises InvalidArgument for what begins as base64 and is none."""
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgument(f"the webhook's secret is not usable: after {_PREFIX} it is no base64") from None


def headers(message_id: str, timestamp: int, body: bytes, secret: str) -> dict[str, str]:
    """Of a message that is sent at this moment, seconds since the epoch."""
    found = {
        "content-type": "application/json",
        "user-agent": "redis-router",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
    }
    if secret:
        signed = f"{message_id}.{timestamp}.".encode() + body
        digest = hmac.new(key_of(secret), signed, hashlib.sha256).digest()
        found["webhook-signature"] = "v1," + base64.b64encode(digest).decode()
    return found

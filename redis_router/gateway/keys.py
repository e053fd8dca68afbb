"""Who may ask: keys are known by their SHA-256 alone."""

import re
import secrets
from collections.abc import Iterable
from hashlib import sha256

from redis_router import InvalidArgument
from redis_router.gateway.settings import Key

PREFIX = "sk-rr-"
_BYTES = 32
"""256 bits: nobody guesses it, so that a quick hash will do."""
_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,63}")


def new_key() -> str:
    """A key with 256 bits of chance, for a header or a URL."""
    return f"{PREFIX}{secrets.token_urlsafe(_BYTES)}"


def hashed(key: str) -> str:
    """What stands in the file for a key: its SHA-256, as 64 hexadecimal digits in lower case."""
    return sha256(key.encode()).hexdigest()


def is_hash(text: str) -> bool:
    """Could it be of a key? The hash of an empty one is none."""
    return _HASH.fullmatch(text) is not None and text != sha256().hexdigest()


def is_name(text: str) -> bool:
    """Can it stand in a log and in a metric's label?"""
    return _NAME.fullmatch(text) is not None


class Keys:
    """The keys of the file. Raises InvalidArgument for a hash that is none, and for two of one hash or name."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._names: dict[bytes, str] = {}
        for key in keys:
            if not is_hash(key.sha256):
                raise InvalidArgument(f"the hash of key {key.name!r} is none: give 64 hexadecimal digits in lower case")
            if not is_name(key.name):
                raise InvalidArgument(
                    f"key name {key.name!r} is not usable: give 1 to 64 letters, digits or . _ : @ / -"
                )
            digest = bytes.fromhex(key.sha256)
            if digest in self._names or key.name in self._names.values():
                raise InvalidArgument(f"key {key.name!r} is there twice, by its name or its hash: keep one")
            self._names[digest] = key.name

    def __len__(self) -> int:
        return len(self._names)

    def named(self, presented: bytes) -> str | None:
        """Whose key it is, None for nobody's. The time that it takes tells nothing of the keys: they are hashed."""
        return self._names.get(sha256(presented).digest())

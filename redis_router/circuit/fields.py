"""Fields of a Redis hash: text there, numbers and flags here, each spelled once, at the field of the dataclass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

WEEK_MS = 604_800_000
_LARGEST = 2.0**53
LAST_MOMENT_MS = 253_402_300_799_000
"""The end of the year 9999: later ones are no moments."""


def number(text: str, most: float = _LARGEST) -> float:
    """A number that is not below 0, as no field of ours is. Raises ValueError."""
    found = float(text)
    if 0 <= found <= most:
        return found
    raise ValueError(f"{text[:40]} is not from 0 to {most:g}")


def share(text: str) -> float:
    """A part of a whole. Raises ValueError."""
    return number(text, 1.0)


def whole(text: str, most: float = _LARGEST) -> int:
    """A whole number. Raises ValueError."""
    # most are digits, and short; a float would lose the last ones of a long number
    if text.isdecimal() and len(text) < 16 and (found := int(text)) <= most:
        return found
    found_number = number(text, most)
    if not found_number.is_integer():
        raise ValueError(f"{text[:40]} is no whole number")
    return int(found_number)


def moment(text: str) -> int:
    """Milliseconds since the epoch. Raises ValueError."""
    return whole(text, LAST_MOMENT_MS)


def at_most_a_week(text: str) -> int:
    """Milliseconds. Raises ValueError."""
    return whole(text, WEEK_MS)


def flag(text: str) -> bool:
    """1, or anything else."""
    return text == "1"


def seconds(text: str) -> float:
    """From milliseconds. Raises ValueError."""
    return number(text) / 1000


def written(value: object) -> str:
    """1/0 for flags, all digits of a float, words as they are."""
    if isinstance(value, bool):
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)


def in_ms(value: float) -> str:
    """Seconds, as milliseconds."""
    return str(round(value * 1000))


@dataclass(frozen=True, slots=True)
class Stored:
    """How a field stands in Redis. `optional`: the hash may leave it out, and then it has its default."""

    read: Callable[[str], Any]
    write: Callable[[Any], str] = written
    suffix: str = ""
    optional: bool = False
    check: Callable[[str, Any], object] | None = None


def stored(default: Any, read: Callable[[str], Any], **how: Any) -> Any:
    """A field of a dataclass that stands in Redis; see `Stored`."""
    return field(default=default, metadata={"stored": Stored(read, **how)})


class Codec:
    """Between the stored fields of a dataclass and those of a hash."""

    def __init__(self, of: type) -> None:
        kinds = {f.name: (f.metadata["stored"], f.default) for f in fields(of) if "stored" in f.metadata}
        self.names = {name: name + kind.suffix for name, (kind, _) in kinds.items()}
        """The name in Redis of each."""
        self._checks = [(name, kind.check) for name, (kind, _) in kinds.items() if kind.check is not None]
        self._writers = [(name, self.names[name], kind.write) for name, (kind, _) in kinds.items()]
        self._readers = [
            (name, self.names[name], kind.read, kind.optional, default) for name, (kind, default) in kinds.items()
        ]

    def check(self, value: object) -> None:
        """Raises InvalidArgument for a field out of its range."""
        for name, check in self._checks:
            check(name, getattr(value, name))

    def to_fields(self, value: object) -> dict[str, str]:
        """As they stand in Redis."""
        return {in_redis: write(getattr(value, name)) for name, in_redis, write in self._writers}

    def from_fields(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """The inverse, as arguments. Raises KeyError for what is missing, ValueError for what cannot be read."""
        return {
            name: read(texts[in_redis]) if not optional or in_redis in texts else default
            for name, in_redis, read, optional, default in self._readers
        }

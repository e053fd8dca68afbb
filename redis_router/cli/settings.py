"""Thresholds and weights as people keep them in a file: TOML, a table for each provider.

TOML, because the standard library reads it, it has comments for the reason of a number, and a change of one number is
a change of one line. A table names a preset and what differs from it, by the names of `CircuitConfig`, in seconds.
"""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from redis_router.checks import check_weight
from redis_router.circuit.config import RECOMMENDED, CircuitConfig
from redis_router.errors import InvalidArgument

PRESETS: Mapping[str, CircuitConfig] = {"recommended": RECOMMENDED, "original": CircuitConfig()}
"""What a router takes by default, and the original router's."""
THRESHOLDS = tuple(field.name for field in fields(CircuitConfig))
KNOWN = ("preset", "weight", *THRESHOLDS)

Table = dict[str, Any]
"""Of one provider: the names of its settings, in the order in which they are shown."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one provider: what an operator may set for good."""

    config: CircuitConfig
    weight: float


@dataclass(frozen=True, slots=True)
class Difference:
    """What a file would change: one setting of one provider."""

    provider: str
    field: str
    old: float
    new: float

    def __str__(self) -> str:
        return f"{self.provider}: {self.field} {_number(self.old)} -> {_number(self.new)}"


def shown(settings: Settings, *, whole: bool = False) -> Table:
    """As a table: a preset and what differs from it; or, `whole`, each threshold."""
    values = {name: getattr(settings.config, name) for name in THRESHOLDS}
    if whole:
        return {"weight": settings.weight, **values}
    differing = {
        preset: {name: value for name, value in values.items() if value != getattr(config, name)}
        for preset, config in PRESETS.items()
    }
    nearest = min(differing, key=lambda preset: len(differing[preset]))
    return {"preset": nearest, "weight": settings.weight, **differing[nearest]}


def written(tables: Mapping[str, Table]) -> str:
    """The file's text."""
    return "\n\n".join(
        "\n".join([f"[{_key(name)}]", *(f"{field} = {_value(value)}" for field, value in table.items())])
        for name, table in tables.items()
    )


def read(text: str) -> tuple[dict[str, Table], list[str]]:
    """The tables of a file, and what is wrong in it, a line for each. Raises InvalidArgument where it is no TOML."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"this is no TOML: {error}") from None
    wrong = []
    for name, table in found.items():
        if not isinstance(table, dict):
            wrong.append(f"{name} stands in no table: begin each provider with its name, [openai]")
            continue
        unknown = [field for field in table if field not in KNOWN]
        wrong += [f"provider {name!r}: {field!r} is no setting: give one of {', '.join(KNOWN)}" for field in unknown]
    return {name: table for name, table in found.items() if isinstance(table, dict)}, wrong


def wanted(table: Table, now: Settings) -> Settings:
    """The settings that a table asks for; what it does not name stays, or is the preset's. Raises InvalidArgument."""
    base, given = now.config, {name: value for name, value in table.items() if name in THRESHOLDS}
    if "preset" in table:
        preset = table["preset"]
        if not isinstance(preset, str) or preset not in PRESETS:
            raise InvalidArgument(f"preset is {preset!r}: give {' or '.join(map(repr, PRESETS))}")
        base = PRESETS[preset]
    config = replace(base, **given)
    weight = check_weight(table["weight"]) if "weight" in table else now.weight
    # as the record will have it: durations are whole milliseconds there
    return Settings(CircuitConfig.from_fields(config.to_fields()), weight)


def differences(provider: str, old: Settings, new: Settings) -> list[Difference]:
    """Setting by setting."""
    pairs = [("weight", old.weight, new.weight)]
    pairs += [(name, getattr(old.config, name), getattr(new.config, name)) for name in THRESHOLDS]
    return [Difference(provider, name, before, after) for name, before, after in pairs if before != after]


def tables_of(read_tables: Mapping[str, Table], records: Iterable[tuple[str, str]]) -> dict[str, Table]:
    """The table of each record that the file means, for pairs of a record and its provider.

    A table of the record itself, `provider/model`, counts instead of its provider's.
    """
    pairs = [(record, record if record in read_tables else provider) for record, provider in records]
    return {record: read_tables[name] for record, name in pairs if name in read_tables}


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)  # names are ASCII


def _value(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) else _number(value)


def _number(value: object) -> str:
    """The shortest one that reads back as the same: 2, not 2.0."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else repr(value)

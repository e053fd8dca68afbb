"""`model_list` as providers: entries that differ in `model_name` alone are one provider with several models."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from redis_router import Provider
from redis_router.gateway.config.entries import Entry, entry_of, model_name_of
from redis_router.gateway.config.findings import Part, masked
from redis_router.gateway.config.reading import Reading
from redis_router.integrations.httpx import Upstream


@dataclass(slots=True)
class Models:
    """What `model_list` says.

    named  every model_name of it, those of entries that cannot be used too
    """

    providers: tuple[Provider[Upstream], ...] = ()
    apis: Mapping[str, str] = field(default_factory=dict)
    named: frozenset[str] = frozenset()


def models_of(part: Part | None, root: Part, reading: Reading) -> Models:
    """Of the file's `model_list`."""
    found = reading.sequence(part) if part is not None else ()
    if not found and (part is None or part.value in (None, ())):
        reading.findings.refuse(part or root, "has no model: give model_list, with an entry for each")
    entries, named = [], set()
    for each in found:
        model_name = model_name_of(each, reading)
        named.add(model_name or "")
        if (entry := entry_of(each, model_name, reading)) is not None:
            entries.append(entry)
    groups = _grouped(entries, reading)
    return Models(tuple(_provider(group) for group in groups), _apis(entries, reading), frozenset(named))


def _grouped(entries: list[Entry], reading: Reading) -> list[list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        group = groups.setdefault(entry.name, [])
        if group and group[0].endpoint != entry.endpoint:
            reading.findings.refuse(
                entry.part,
                f"is a provider {masked(entry.name)}, as the entry in line {group[0].part.line}, and differs from"
                " it: give each a model_info.id of its own",
            )
            continue
        if entry.model_name in {each.model_name for each in group}:
            reading.findings.note(entry.part, "is there already, and counts once: for a larger share give weight.")
            continue
        group.append(entry)
    return list(groups.values())


def _provider(group: list[Entry]) -> Provider[Upstream]:
    first = group[0].endpoint
    models = tuple(entry.model_name for entry in group)
    upstream = Upstream(
        first.base_url,
        first.api_key,
        models={model: first.model for model in models if model != first.model},
        headers=dict(first.headers),
        api_version=first.api_version,
    )
    return Provider(group[0].name, models, weight=first.weight, client=upstream)


def _apis(entries: list[Entry], reading: Reading) -> dict[str, str]:
    firsts: dict[str, Entry] = {}
    for entry in entries:
        first = firsts.setdefault(entry.model_name, entry)
        if first.endpoint.api != entry.endpoint.api:
            reading.findings.refuse(
                entry.part,
                f"speaks the API of {entry.endpoint.api}, the entry of the same model_name in line {first.part.line}"
                f" that of {first.endpoint.api}, and nothing is translated: give it a model_name of its own",
            )
    return {name: entry.endpoint.api for name, entry in firsts.items()}

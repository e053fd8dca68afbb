"""The settings beside the models: ours, and LiteLLM's where they mean something here."""

from collections.abc import Mapping
from typing import Any

from redis_router.gateway.config import known
from redis_router.gateway.config.findings import Part, closest, named, shown, variable_of
from redis_router.gateway.config.headers import forwarded
from redis_router.gateway.config.providers import Models, models_of
from redis_router.gateway.config.reading import Reading
from redis_router.gateway.keys import hashed, is_hash, is_name
from redis_router.gateway.settings import LONGEST_DEADLINE, Key, Settings
from redis_router.routing.strategies import STRATEGIES

_LEAST, _LONGEST = 0.001, 7 * 24 * 3600.0
"""Seconds: what any duration may be."""
_LEAST_MB, _MAX_MB = 0.001, 1024.0
_LEAST_OF_A_KEY = 16
"""Characters of `master_key`: fewer can be guessed."""
_MASTER = "master_key"


def settings_of(root: Part, reading: Reading) -> Settings | None:
    """Of the whole file; None where something of it was refused."""
    top = known.top(root, reading)
    if not isinstance(root.value, dict):
        return None
    models = models_of(top.get(known.MODEL_LIST), root, reading)
    litellm, router, general = (
        known.used(top[section], section, reading) if section in top else {}
        for section in (known.LITELLM, known.ROUTER, known.GENERAL)
    )
    ours = reading.mapping(top[known.OURS], known.OUR_KEYS) if known.OURS in top else {}
    ours = {key: part for key, part in ours.items() if part.value is not None}
    said = {
        **_keys(ours, general, reading),
        **_times(ours, litellm, router, reading),
        **_rest(ours, reading),
        "fallbacks": _fallbacks(
            _first((router, "fallbacks"), (litellm, "fallbacks"), reading=reading), models, reading
        ),
    }
    if reading.findings.count:
        return None
    return Settings(models.providers, models.apis, **{key: value for key, value in said.items() if value is not None})


def _first(*places: tuple[Mapping[str, Part], str], reading: Reading) -> Part | None:
    """The part that counts: that of the first place. The others are noted."""
    parts = [section[key] for section, key in places if key in section]
    for part in parts[1:]:
        reading.findings.note(part, f"has no effect: {parts[0].path} in line {parts[0].line} counts.")
    return parts[0] if parts else None


def _seconds(part: Part | None, reading: Reading) -> float | None:
    return reading.number(part, least=_LEAST, most=_LONGEST) if part is not None else None


def _times(
    ours: Mapping[str, Part], litellm: Mapping[str, Part], router: Mapping[str, Part], reading: Reading
) -> dict[str, Any]:
    """Deadlines and tries; those of `router_settings` go before those of `litellm_settings`."""
    deadline = _first((ours, "deadline"), (router, "timeout"), (litellm, "request_timeout"), reading=reading)
    first_token = _first((ours, "first_token_timeout"), (router, "stream_timeout"), reading=reading)
    attempts = _first((ours, "max_attempts"), (router, "num_retries"), (litellm, "num_retries"), reading=reading)
    whole, longest = _seconds(deadline, reading), _seconds(ours.get("longest_deadline"), reading)
    if whole is not None and longest is not None and longest < whole:
        reading.findings.refuse(
            ours["longest_deadline"], f"is {longest:g}, and the deadline {whole:g}: give at least as much"
        )
    elif whole is not None and longest is None:
        longest = max(whole, LONGEST_DEADLINE)
    return {
        "deadline": whole,
        "longest_deadline": longest,
        "first_token_timeout": _seconds(first_token, reading),
        "max_attempts": _attempts(attempts, reading),
    }


def _attempts(part: Part | None, reading: Reading) -> int | None:
    if part is None:
        return None
    if part.key == "max_attempts":
        return reading.count(part, least=1)
    retries = reading.count(part, least=0)
    return None if retries is None else retries + 1


def _rest(ours: Mapping[str, Part], reading: Reading) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "forward_headers" in ours:
        found["forward_headers"] = forwarded(ours["forward_headers"], reading)
    if "max_body_mb" in ours:
        size = reading.number(ours["max_body_mb"], least=_LEAST_MB, most=_MAX_MB)
        found["max_body"] = None if size is None else int(size * (1 << 20))
    if "strategy" in ours and (name := reading.text(ours["strategy"])) is not None:
        if name in STRATEGIES:
            found["strategy"] = name
        else:
            reading.findings.refuse(ours["strategy"], f"is {shown(ours['strategy'])}: choose {', '.join(STRATEGIES)}")
    return found


def _keys(ours: Mapping[str, Part], general: Mapping[str, Part], reading: Reading) -> dict[str, Any]:
    places: list[tuple[Part, Key]] = []
    if _MASTER in general and (key := _master_key(general[_MASTER], reading)) is not None:
        places.append((general[_MASTER], key))
    for part in reading.sequence(ours["keys"]) if "keys" in ours else ():
        if (key := _key(part, reading)) is not None:
            places.append((part, key))
    firsts: dict[str, Part] = {}
    for part, key in places:
        for what, value in (("name", key.name), ("hash", key.sha256)):
            first = firsts.setdefault(f"{what} {value}", part)
            if first is not part:
                reading.findings.refuse(part, f"has the {what} of the key in line {first.line}: keep one")
    anyone = reading.flag(ours["allow_anyone"]) if "allow_anyone" in ours else None
    if anyone and places:
        reading.findings.refuse(ours["allow_anyone"], "is true, and there are keys: take one of the two out")
    return {"keys": tuple(key for _, key in places), "allow_anyone": anyone}


def _master_key(part: Part, reading: Reading) -> Key | None:
    if not isinstance(part.value, str) or variable_of(part.value) is None:
        reading.findings.refuse(
            part,
            "a key does not stand in the file: write os.environ/LITELLM_MASTER_KEY, or make one by"
            " `redis-router gateway --new-key NAME`, which prints what goes into gateway_settings.keys",
        )
        return None
    key = reading.word(part)
    if key is not None and len(key) < _LEAST_OF_A_KEY:
        reading.findings.refuse(
            part,
            f"the key has fewer than {_LEAST_OF_A_KEY} characters: make one by `redis-router gateway --new-key NAME`",
        )
        return None
    return None if key is None else Key(_MASTER, hashed(key))


def _key(part: Part, reading: Reading) -> Key | None:
    found = reading.mapping(part, ("name", "sha256"))
    if isinstance(part.value, dict):
        for missing in [key for key in ("name", "sha256") if key not in found]:
            reading.findings.refuse(part, f"has no {missing}: `redis-router gateway --new-key NAME` prints both")
    name = reading.text(found["name"]) if "name" in found else None
    digest = reading.text(found["sha256"]) if "sha256" in found else None
    if name is not None and not is_name(name):
        reading.findings.refuse(
            found["name"], f"is {shown(found['name'])}: give 1 to 64 letters, digits or . _ : @ / -"
        )
        name = None
    if digest is not None and not is_hash(digest.lower()):
        reading.findings.refuse(
            found["sha256"],
            "is no hash of a key, 64 hexadecimal digits; the key itself is never in the file:"
            " `redis-router gateway --new-key NAME` prints the hash",
        )
        digest = None
    return None if name is None or digest is None else Key(name, digest.lower())


def _fallbacks(part: Part | None, models: Models, reading: Reading) -> dict[str, tuple[str, ...]] | None:
    """In LiteLLM's form, a list of mappings; one mapping will do."""
    if part is None:
        return None
    found: dict[str, tuple[str, ...]] = {}
    items = (part,) if isinstance(part.value, dict) else reading.sequence(part)
    for model, wanted in ((key, each) for item in items for key, each in reading.mapping(item).items()):
        if model in found:
            reading.findings.refuse(wanted, "the model is there twice: keep one list for it")
        elif _is_model(model, wanted, models, reading):
            found[model] = _others(model, wanted, models, reading)
    return {model: others for model, others in found.items() if others}


def _others(model: str, part: Part, models: Models, reading: Reading) -> tuple[str, ...]:
    others: list[str] = []
    for each in reading.sequence(part):
        other = reading.text(each)
        if other is None or not _is_model(other, each, models, reading):
            continue
        mine, theirs = models.apis.get(model), models.apis.get(other)
        if other == model or other in others:
            reading.findings.refuse(each, "the model is asked already: take it out here")
        elif mine and theirs and mine != theirs:
            reading.findings.refuse(
                each, f"speaks the API of {theirs}, and {model!r} that of {mine}: nothing is translated"
            )
        else:
            others.append(other)
    return tuple(others)


def _is_model(name: str, part: Part, models: Models, reading: Reading) -> bool:
    if name in models.named:
        return True
    words = f"{named(name)!r} is no model of model_list"
    if name == "*":
        words = "patterns are not read: give fallbacks for each model"
    elif (meant := closest(name, models.named)) is not None:
        words += f": did you mean {named(meant)!r}?"
    else:
        words += ": add an entry with this model_name, or take it out"
    reading.findings.refuse(part, words)
    return False

"""An entry of `model_list`: where the provider is, what it is called, and for which model it is asked."""

import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from redis_router import InvalidArgument, Provider
from redis_router.gateway.config.findings import Part, closest, masked, shown
from redis_router.gateway.config.headers import CREDENTIALS, extra_headers
from redis_router.gateway.config.hosts import HOSTS, REFUSED, Host
from redis_router.gateway.config.known import INFO, PARAMS, used
from redis_router.gateway.config.reading import Reading

_ENDPOINT = re.compile(r"/(chat/completions|completions|embeddings|responses|messages)/*$")
_ROUTES_OF_LITELLM = re.compile(r"(responses|o_series|gpt5_series|global|us|eu)/")
_HOST = re.compile(r"([A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63}){0,20}\.?|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
_V1_NAMES = ("v1", "preview", "latest")
_MODEL_CHARS = 256
_LEAST_WEIGHT, _MOST_WEIGHT = 1e-6, 1e6


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where entries of one provider lead; those that differ in it are not the same provider."""

    model: str
    base_url: str
    api: str
    api_key: str | None = field(repr=False)
    api_version: str | None
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    weight: float


@dataclass(frozen=True, slots=True)
class Entry:
    """One that can be used: clients ask for `model_name`."""

    model_name: str
    name: str
    endpoint: Endpoint
    part: Part


def model_name_of(part: Part, reading: Reading) -> str | None:
    """What clients ask for."""
    found = part.value.get("model_name") if isinstance(part.value, dict) else None
    if found is None:
        if isinstance(part.value, dict):
            reading.findings.refuse(part, "has no model_name: give the name that clients ask for")
        return None
    name = reading.text(found, most=_MODEL_CHARS)
    if name is not None and "*" in name:
        reading.findings.refuse(found, f"is {shown(found)}: patterns are not read; give an entry for each model")
        return None
    return name


def entry_of(part: Part, model_name: str | None, reading: Reading) -> Entry | None:
    """None where it cannot be used; the findings say why."""
    found = reading.mapping(part, ("model_name", PARAMS, INFO, "rpm", "tpm"))
    for key in found.keys() & {"rpm", "tpm"}:
        reading.findings.note(found[key], "has no effect: nothing is counted against it; take it out.")
    before = reading.findings.count
    info = used(found[INFO], INFO, reading) if INFO in found else {}
    given = reading.text(info["id"]) if "id" in info else None
    if not isinstance(part.value, dict):
        return None
    if PARAMS not in found or found[PARAMS].value is None:
        reading.findings.refuse(part, f"has no {PARAMS}: give them, with model: openai/gpt-4o for example")
        return None
    params = used(found[PARAMS], PARAMS, reading)
    if "model" not in params:
        if isinstance(found[PARAMS].value, dict):
            reading.findings.refuse(found[PARAMS], "has no model: give one, such as openai/gpt-4o")
        return None
    endpoint, default_name = _endpoint(params, reading)
    if endpoint is None or model_name is None or reading.findings.count > before:
        return None
    entry = Entry(model_name, given or default_name, endpoint, part)
    return entry if _is_acceptable(entry, reading) else None


def _is_acceptable(entry: Entry, reading: Reading) -> bool:
    """Would a router take it as a provider?"""
    try:
        Provider(entry.name, (entry.model_name,), weight=entry.endpoint.weight)
    except InvalidArgument:  # its name, as all else was looked at before
        reading.findings.refuse(
            entry.part,
            f"{masked(entry.name)} cannot be a provider's name, which has 1 to 64 letters, digits or . _ : / @ -, the"
            " first a letter or digit: give model_info.id",
        )
        return False
    return True


def _endpoint(params: dict[str, Part], reading: Reading) -> tuple[Endpoint | None, str]:
    """And the name that the provider has without an id."""
    before = reading.findings.count
    prefix, host, model = _model(params["model"], reading)
    weight = _weight(params["weight"], reading) if "weight" in params else 1.0
    headers = extra_headers(params, reading)
    url = reading.text(params["api_base"]) if "api_base" in params else None
    address = _address(params["api_base"], url, reading) if url is not None else None
    if host is None:
        return None, ""
    base = _base(params, host, address, prefix, reading)
    version = _version(params, prefix, base, reading)
    key = _key(params, host, address, reading) if not headers.keys() & CREDENTIALS or "api_key" in params else None
    if reading.findings.count > before or base is None or weight is None:
        return None, ""
    name = f"{prefix}/{model}" + (f"@{address.netloc.lower()}" if address is not None else "")
    return Endpoint(model, base, host.api, key, version, tuple(sorted(headers.items())), weight), name


def _weight(part: Part, reading: Reading) -> float | None:
    weight = reading.number(part, least=0.0, most=_MOST_WEIGHT)
    if weight is not None and 0 < weight < _LEAST_WEIGHT:
        reading.findings.refuse(part, f"is {shown(part)}: give {_LEAST_WEIGHT:f} or more, or 0 for no calls at all")
        return None
    return weight


def _model(part: Part, reading: Reading) -> tuple[str, Host | None, str]:
    """The prefix, what it stands for, and the provider's own name of the model."""
    refuse = reading.findings.refuse
    text = reading.text(part, most=_MODEL_CHARS)
    if text is None:
        return "", None, ""
    prefix, slash, model = text.partition("/")
    if not slash:
        prefix, model = "openai", text
        foreign = next((each for each in ("claude", "gemini") if text.startswith(each)), None)
        if foreign:
            refuse(
                part,
                f"{shown(part)} is not OpenAI's: write {'anthropic/' if foreign == 'claude' else 'its provider/'}…",
            )
            return "", None, ""
    host = HOSTS.get(prefix)
    if host is None:
        meant = closest(prefix, HOSTS)
        other = f"{f'Did you mean {meant}/…? ' if meant else ''}For what has OpenAI's API write openai/… with api_base"
        refuse(part, f"{shown(part)}: {REFUSED.get(prefix, f'the prefix is not known. {other}')}")
    elif not model or "*" in model:
        refuse(part, f"is {shown(part)}: name one model after the prefix")
    elif "://" in model or model.startswith("sk-"):
        refuse(part, "looks like a URL or a key, and is not shown: give the name of a model, and those in their places")
    elif prefix in ("openai", "azure") and _ROUTES_OF_LITELLM.match(model):
        refuse(part, f"is {shown(part)}: give the name alone; clients choose the route by what they ask")
    elif prefix == "fireworks_ai" and "/" not in model:
        refuse(part, f"is {shown(part)}: give the whole name, fireworks_ai/accounts/fireworks/models/…")
    else:
        return prefix, host, model
    return prefix, None, ""


def _address(part: Part, url: str, reading: Reading) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError beyond 65535
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    if "@" in parts.netloc:
        reading.findings.refuse(part, "holds a login: give api_key, or extra_headers with authorization")
    elif parts.scheme not in ("http", "https") or not _HOST.fullmatch(parts.netloc) or " " in url or not url.isascii():
        reading.findings.refuse(part, f"is {shown(part)}: give a URL such as https://api.example.com/v1")
    elif parts.query or parts.fragment or "?" in url or "#" in url:
        reading.findings.refuse(
            part, f"is {shown(part)}: leave out what follows the path; a version goes in api_version"
        )
    elif (found := _ENDPOINT.search(parts.path)) is not None:
        reading.findings.refuse(part, f"is {shown(part)}: leave out {found[0]}, which clients ask for")
    else:
        return parts
    return None


def _base(
    params: dict[str, Part], host: Host, address: SplitResult | None, prefix: str, reading: Reading
) -> str | None:
    if "api_base" in params:
        return _own_base(params["api_base"], address, prefix, reading) if address is not None else None
    elsewhere = next((name for name in host.bases if reading.environ.get(name)), None)
    if elsewhere is not None:
        reading.findings.refuse(
            params["model"],
            f"the variable {elsewhere} is set, and LiteLLM would go there: write api_base: os.environ/{elsewhere},"
            " so that all replicas go to the same place",
        )
    elif host.base is None:
        variable = next(iter(host.bases), "MY_API_BASE")
        reading.findings.refuse(params["model"], f"needs api_base, such as os.environ/{variable}")
    return host.base


def _own_base(part: Part, address: SplitResult, prefix: str, reading: Reading) -> str:
    path = address.path.rstrip("/")
    if prefix == "anthropic" and path.endswith("/v1"):
        reading.findings.refuse(part, f"is {shown(part)}: leave out /v1, as Anthropic's SDK has it")
    elif prefix == "azure" and "/deployments" in path:
        reading.findings.refuse(
            part, f"is {shown(part)}: give the resource alone, such as https://example.openai.azure.com"
        )
    return address.geturl().rstrip("/")


def _version(params: dict[str, Part], prefix: str, base: str | None, reading: Reading) -> str | None:
    """Azure's; its newer API, below /openai/v1, has none."""
    part = params.get("api_version")
    if prefix != "azure":
        if part is not None:
            reading.findings.note(part, "has no effect: it is for azure/…; take it out.")
        return None
    newer = base is not None and base.endswith("/openai/v1")
    version = reading.word(part) if part is not None else None
    if part is None and base is not None and not newer:
        reading.findings.refuse(
            params["model"], "needs api_version, such as '2024-10-21', or an api_base that ends with /openai/v1"
        )
    elif part is not None and version in _V1_NAMES and not newer:
        reading.findings.refuse(part, f"is {shown(part)}: end api_base with /openai/v1, and leave api_version out")
    elif part is not None and newer:
        reading.findings.refuse(part, "leave it out: api_base ends with /openai/v1, which has no versions")
    return version


def _key(params: dict[str, Part], host: Host, address: SplitResult | None, reading: Reading) -> str | None:
    if (part := params.get("api_key")) is not None:
        if isinstance(part.value, str) and not part.value.startswith("os.environ/"):
            reading.findings.note(part, "stands in the file as it is: os.environ/NAME keeps it out of it.")
        return reading.word(part)
    place = params["model"]
    elsewhere = address is not None and host.base is not None and address.hostname != urlsplit(host.base).hostname
    for name in host.keys:
        if reading.environ.get(name):
            if elsewhere and address is not None:
                words = f"the key of {name} goes to {address.hostname}: give api_key, if that is not meant."
                reading.findings.note(place, words)
            return reading.word(Part(f"os.environ/{name}", place.line, f"{place.path} ({name})"))
    needed = host.needs_key if host.needs_key is not None else address is None
    if needed:
        first = host.keys[0]
        reading.findings.refuse(place, f"has no key: set {first} in the environment, or give api_key: os.environ/NAME")
    return None

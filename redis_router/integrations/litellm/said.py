"""What LiteLLM's hooks are given, by the names that matter here. Everything may be missing: nothing here raises."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

_HASH = re.compile(r"[0-9a-f]{64}")
_LIMIT_HEADER = re.compile(r"llm_provider-((?:x-|anthropic-)ratelimit-.+)")


def part(said: object, name: str) -> Mapping[str, Any]:
    """A mapping inside a mapping; empty where there is none."""
    found = said.get(name) if isinstance(said, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def text(said: object, name: str) -> str:
    """A word; '' where there is none."""
    found = said.get(name) if isinstance(said, Mapping) else None
    return found if isinstance(found, str) else ""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One of a Router's `model_list`: the `id` of its `model_info`, and its group's `model_name`."""

    name: str
    group: str

    @classmethod
    def of(cls, said: object) -> "Deployment":
        """With '' for what is missing."""
        return cls(text(part(said, "model_info"), "id"), text(said, "model_name"))

    @property
    def has_default_id(self) -> bool:
        """LiteLLM makes an id of 64 hexadecimal digits from the parameters, the key among them."""
        return _HASH.fullmatch(self.name) is not None


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What the keyword arguments of one call say.

    call     LiteLLM gives each try an id of its own, also the retries of one request
    request  what the tries of one request share
    """

    call: str
    request: str
    deployment: str
    streams: bool

    @classmethod
    def of(cls, kwargs: object) -> "CallFacts":
        """From what a hook before or after a call, or a log event, is given."""
        for holder in (kwargs, part(kwargs, "litellm_params"), *_metadata(kwargs)):
            if name := text(part(holder, "model_info"), "id"):
                break
        streams = isinstance(kwargs, Mapping) and kwargs.get("stream") is True
        return cls(text(kwargs, "litellm_call_id"), text(kwargs, "litellm_trace_id"), name, streams)


def _metadata(kwargs: object) -> tuple[Mapping[str, Any], ...]:
    return part(kwargs, "metadata"), part(kwargs, "litellm_metadata")


def first_token_ms(kwargs: Mapping[str, Any], began: object) -> float | None:
    """Of a log event: ms until the first part of a stream; None where there was none."""
    return between_ms(began, kwargs.get("completion_start_time")) if kwargs.get("stream") is True else None


def between_ms(began: object, ended: object) -> float | None:
    """None where one of them is no moment."""
    if not isinstance(began, datetime) or not isinstance(ended, datetime):
        return None
    return max(0.0, (ended - began).total_seconds() * 1000)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response as `classify` reads it: what the provider's headers say of its limits."""

    headers: Mapping[str, str]
    status_code: int = 200

    @classmethod
    def of(cls, response: object) -> "Answer | None":
        """None where LiteLLM passed on no such header."""
        hidden = getattr(response, "_hidden_params", None)
        said = part(hidden, "additional_headers")
        found = {match[1]: str(value) for name, value in said.items() if (match := _LIMIT_HEADER.fullmatch(str(name)))}
        return cls(found) if found else None


def is_no_word_of_a_provider(error: object) -> bool:
    """An error of local code, as a ModuleNotFoundError: LiteLLM wraps what a provider said, or did not say."""
    return (
        isinstance(error, Exception)
        and type(error).__module__ == "builtins"
        and not isinstance(error, (OSError, EOFError))
    )

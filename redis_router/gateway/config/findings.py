"""What is wrong with the file, and what has no effect: all of it, each with its line; secrets never."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from redis_router import InvalidArgument

ENVIRONMENT = "os.environ/"
"""A value that begins so stands for a variable of the environment, as LiteLLM has it."""
_PLAIN_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./ -]{0,59}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_OF_SECRETS = re.compile(r"key|secret|token|password|credential|auth|sha256", re.IGNORECASE)
_LIKE_A_SECRET = re.compile(
    r"(?<![a-z0-9])sk[-_]|\bBearer\b|[a-z0-9]{28}|[0-9a-f]{8}-[0-9a-f]{4}-"
    r"|(?=[a-z]*[0-9])(?=[0-9]*[a-z])[a-z0-9]{16}",
    re.IGNORECASE,
)
"""Usual beginnings, UUIDs, and long words; those with digits among the letters sooner."""
_SHOWN = 80


class BadConfig(InvalidArgument):
    """The file cannot be used. `problems` are all that were found, in the order of the file, a sentence or two each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the file.

    value  a str, int, float, bool or None; a tuple of Parts; a dict of Parts by their key
    line   where it begins, for a value in a mapping the line of its key
    path   of keys, such as model_list[0].litellm_params.model
    """

    value: Any = field(repr=False)
    line: int
    path: str

    @property
    def key(self) -> str:
        """The last of its path."""
        return self.path.rpartition(".")[2]


class Findings:
    """Collects; each line begins with file:line."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._problems: list[tuple[int, str]] = []
        self._notes: dict[tuple[str, str], list[Part]] = {}

    def refuse(self, part: Part, words: str) -> None:
        """A problem; `words` say what it is and what would do."""
        self._problems.append(
            (part.line, f"{self._file}:{part.line}: {f'{part.path}:' if part.path else 'the file'} {words}")
        )

    def note(self, part: Part, words: str) -> None:
        """Something without effect; said once for all entries of a list."""
        self._notes.setdefault((re.sub(r"\[\d+\]", "[]", part.path), words), []).append(part)

    @property
    def count(self) -> int:
        """Of problems so far."""
        return len(self._problems)

    @property
    def error(self) -> BadConfig:
        """With all problems."""
        return BadConfig(dict.fromkeys(text for _, text in sorted(self._problems, key=lambda each: each[0])))

    @property
    def notes(self) -> tuple[str, ...]:
        """In the order of the file."""
        found = sorted(self._notes.items(), key=lambda each: each[1][0].line)
        return tuple(
            f"{self._file}:{parts[0].line}: {parts[0].path}{_and_more(len(parts) - 1)}: {words}"
            for (_, words), parts in found
        )


def _and_more(more: int) -> str:
    return f" (and {more} more)" if more else ""


def named(key: str) -> str:
    """A key of the file, fit to be shown."""
    return key if _PLAIN_WORD.fullmatch(key) and not _is_secret(key) else "(a key that is not shown)"


def shown(part: Part) -> str:
    """A value of the file, fit to be shown: never one that may be a secret."""
    value = part.value
    if isinstance(value, tuple | dict):
        return "a list" if isinstance(value, tuple) else "a mapping"
    if not isinstance(value, str):
        huge = isinstance(value, int) and abs(value) > 10**15  # Python refuses to write some
        return "empty" if value is None else "a huge number" if huge else repr(value)
    if value.startswith(ENVIRONMENT) and _VARIABLE.fullmatch(value.removeprefix(ENVIRONMENT)):
        return repr(value)
    if _OF_SECRETS.search(part.key) or "headers." in part.path or _is_secret(value):
        return "not shown here"
    return _short(repr(re.sub(r"\?.*", "?…", _without_login(value), flags=re.DOTALL)))


def masked(name: str) -> str:
    """The name of a provider, fit to be shown, in quotes. Its host may be one in the way of a login: @host."""
    name = re.sub(r"\S*:\S*@", "…@", name)
    return "(not shown)" if _is_secret(name) else repr(name)


def variable_of(value: str) -> str | None:
    """The variable that a value stands for, if it stands for one."""
    name = value.removeprefix(ENVIRONMENT)
    return name if value.startswith(ENVIRONMENT) and _VARIABLE.fullmatch(name) else None


def closest(key: str, known: Iterable[str]) -> str | None:
    """The known key that was meant, it seems."""
    found = get_close_matches(key.lower(), list(known), n=1, cutoff=0.8)
    return found[0] if found else None


def _is_secret(text: str) -> bool:
    """Could it be one? A name such as claude-3-5-sonnet-20241022 could not: its words are short."""
    return _LIKE_A_SECRET.search(text) is not None


def _without_login(text: str) -> str:
    return re.sub(r"\S*@", "…@", text)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"

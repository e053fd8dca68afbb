"""Values of the file as what they should be; a value that is something else is refused, and reads as None."""

import math
import re
from collections.abc import Collection, Mapping

from redis_router.gateway.config.findings import ENVIRONMENT, Findings, Part, closest, shown, variable_of

_NUMBER = re.compile(r"\d{1,15}(\.\d{1,15})?")


class Reading:
    """The file's values, and those of the environment that they stand for."""

    def __init__(self, findings: Findings, environ: Mapping[str, str]) -> None:
        self.findings = findings
        self.environ = environ

    def mapping(self, part: Part, known: Collection[str] | None = None) -> dict[str, Part]:
        """A mapping; empty where it is none. With `known` keys all others are refused."""
        if part.value is None:
            return {}
        if not isinstance(part.value, dict):
            self.findings.refuse(part, f"is {shown(part)}: give a mapping")
            return {}
        if known is not None:
            for key in part.value.keys() - set(known):
                self.unknown(part.value[key], key, known)
        return {key: each for key, each in part.value.items() if known is None or key in known}

    def unknown(self, part: Part, key: str, known: Collection[str]) -> None:
        """Refuse a key, with the one that was meant."""
        meant = closest(key, known)
        hint = f"did you mean {meant}?" if meant else f"known here are {', '.join(sorted(known))}"
        self.findings.refuse(part, f"unknown key: {hint}")

    def sequence(self, part: Part) -> tuple[Part, ...]:
        """A list; empty where it is none."""
        if part.value is None:
            return ()
        if isinstance(part.value, tuple):
            return part.value
        self.findings.refuse(part, f"is {shown(part)}: give a list")
        return ()

    def text(self, part: Part, *, most: int = 4096) -> str | None:
        """A text on one line, out of the environment where it says so."""
        value = part.value
        if isinstance(value, str) and ENVIRONMENT in value:
            value = self._out_of_environment(part, value)
            if value is None:
                return None
        if not isinstance(value, str):
            hint = "put it in quotes" if isinstance(value, int | float) else "give a text"
            self.findings.refuse(part, f"is {shown(part)}: {hint}")
        elif not value.strip():
            self.findings.refuse(part, "is empty: give a text, or leave it out")
        elif len(value) > most or not value.isprintable():
            self.findings.refuse(part, f"is {shown(part)}: give at most {most} printable characters, on one line")
        else:
            return value.strip()
        return None

    def word(self, part: Part) -> str | None:
        """A text that can stand in a header, such as a key: ASCII, without blanks."""
        text = self.text(part)
        if text is None or (text.isascii() and " " not in text):
            return text
        self.findings.refuse(part, f"is {shown(part)}: give ASCII without blanks")
        return None

    def number(self, part: Part, *, least: float, most: float) -> float | None:
        """A finite number from `least` to `most`."""
        value = part.value
        if isinstance(value, str) and (text := self.text(part)) is None:
            return None
        if isinstance(value, str) and _NUMBER.fullmatch(text or ""):
            value = float(text or "")
        if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:
            number = float(value)
            if math.isfinite(number):
                return number
        self.findings.refuse(part, f"is {shown(part)}: give a number from {least:g} to {most:g}")
        return None

    def count(self, part: Part, *, least: int, most: int = 1_000_000) -> int | None:
        """A whole number."""
        number = self.number(part, least=least, most=most)
        if number is None or number.is_integer():
            return None if number is None else int(number)
        self.findings.refuse(part, f"is {shown(part)}: give a whole number")
        return None

    def flag(self, part: Part) -> bool | None:
        """true or false."""
        if isinstance(part.value, bool):
            return part.value
        self.findings.refuse(part, f"is {shown(part)}: give true or false")
        return None

    def _out_of_environment(self, part: Part, value: str) -> str | None:
        name = variable_of(value)
        if name is None:
            self.findings.refuse(part, f"{ENVIRONMENT} and the name of a variable are to be the whole value")
        elif not self.environ.get(name, "").strip():
            state = "is empty" if name in self.environ else "is not set"
            self.findings.refuse(part, f"the variable {name} {state}: set it in the environment of the gateway")
        else:
            return self.environ[name].strip()  # secrets out of files often end with a line break
        return None

"""The file as a tree of parts, each with its line: read within limits; duplicate keys and tags are refused."""

import re
from pathlib import Path
from typing import NoReturn

import yaml
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from redis_router.gateway.config.findings import Findings, Part, named

MAX_BYTES = 1 << 20
MAX_PARTS = 200_000
"""With what aliases repeat."""
MAX_DEPTH = 32
_CORE = "tag:yaml.org,2002:"
_TEXT = {f"{_CORE}str", f"{_CORE}timestamp", f"{_CORE}value"}
"""A date stays the text that it is: api_version: 2024-10-21."""
_NUMBERS = {f"{_CORE}{kind}" for kind in ("int", "float", "bool", "null")}


def read(path: str | Path, findings: Findings) -> Part:
    """The whole file. Raises BadConfig where there is no tree to go on with."""
    nowhere = Part(None, 1, "")
    try:
        if Path(path).is_fifo():
            _give_up(findings, nowhere, "is a pipe, which can be read once: give a file")
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        _give_up(findings, nowhere, f"cannot be read: {getattr(error, 'strerror', None) or error}")
    if len(content) > MAX_BYTES:
        _give_up(findings, nowhere, f"has more than {MAX_BYTES >> 20} MiB: is it the gateway's file?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        _give_up(findings, Part(None, line, ""), "is not UTF-8: save it as that")
    node = _composed(text, findings) or ScalarNode(f"{_CORE}null", "")
    root = _Tree(findings).part(node, 1, "", 0)
    if root.value is None:
        _give_up(findings, nowhere, "is empty: give model_list")
    return root


def _give_up(findings: Findings, part: Part, words: str) -> NoReturn:
    findings.refuse(part, words)
    raise findings.error from None


def _composed(text: str, findings: Findings) -> Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        said = "; ".join(filter(None, (error.context, error.problem)))
        _give_up(findings, Part(None, line, ""), f"is no YAML: {_without_content(said)}")
    except RecursionError:
        _give_up(findings, Part(None, 1, ""), f"is nested more than {MAX_DEPTH} deep")
    except Exception as error:  # PyYAML lets ValueErrors and others out, for \UFFFFFFFF in quotes for example
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position if isinstance(position, int) else 0) + 1
        _give_up(findings, Part(None, line, ""), "is no YAML: it has a character that cannot be there")


def _without_content(said: str) -> str:
    """PyYAML's words without what they quote of the file, beyond a character or a kind of token."""
    plain = re.sub(r"'(?!<)[^']{3,}'", "(not shown)", said.replace('"', "'"))
    return " ".join(plain.split())[:200]


class _Tree:
    """Makes parts of nodes, up to a number: aliases can repeat without end."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._left = MAX_PARTS
        self._constructor = SafeConstructor()

    def part(self, node: Node, line: int, path: str, depth: int) -> Part:
        """Of a node and what is below it. Raises BadConfig beyond the limits."""
        place = Part(None, line, path)
        self._left -= 1
        if self._left < 0:
            _give_up(
                self._findings, Part(None, line, ""), f"has more than {MAX_PARTS:,} values, with what aliases repeat"
            )
        if depth > MAX_DEPTH:
            _give_up(self._findings, Part(None, line, ""), f"is nested more than {MAX_DEPTH} deep")
        if isinstance(node, MappingNode) and node.tag == f"{_CORE}map":
            return Part(self._mapping(node, path, depth), line, path)
        if isinstance(node, SequenceNode) and node.tag == f"{_CORE}seq":
            return Part(self._sequence(node, path, depth), line, path)
        if isinstance(node, ScalarNode) and node.tag in _TEXT:
            return Part(node.value, line, path)
        if isinstance(node, ScalarNode) and node.tag in _NUMBERS:
            return Part(self._number(node, place), line, path)
        self._findings.refuse(place, "has a tag (!…): give a plain value")
        return place

    def _sequence(self, node: SequenceNode, path: str, depth: int) -> tuple[Part, ...]:
        return tuple(
            self.part(each, each.start_mark.line + 1, f"{path}[{number}]", depth + 1)
            for number, each in enumerate(node.value)
        )

    def _mapping(self, node: MappingNode, path: str, depth: int) -> dict[str, Part]:
        own: dict[str, Part] = {}
        merged: dict[str, Part] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                self._findings.refuse(Part(None, line, path), "a key of it is no text: give one")
                continue
            place = Part(None, line, f"{path}.{named(key.value)}" if path else named(key.value))
            if key.value in own:
                self._findings.refuse(place, f"is there twice, at first in line {own[key.value].line}: keep one")
            elif key.tag == f"{_CORE}merge":
                own["<<"] = place
                merged = self._merged(value, place, path, depth)
            else:
                own[key.value] = self.part(value, line, place.path, depth + 1)
        own.pop("<<", None)
        return {**merged, **own}

    def _merged(self, node: Node, place: Part, path: str, depth: int) -> dict[str, Part]:
        """What `<<: *anchor` brings. Of several the first wins."""
        found: dict[str, Part] = {}
        sources = node.value if isinstance(node, SequenceNode) else [node]
        for each in sources:
            value = self.part(each, place.line, path, depth + 1).value
            if isinstance(value, dict):
                found = {**value, **found}
            else:
                self._findings.refuse(place, "merges what is no mapping: give an alias of one")
        return found

    def _number(self, node: ScalarNode, place: Part) -> object:
        try:
            return self._constructor.construct_object(node)
        except Exception:  # whatever PyYAML meets in !!int "x" or in a number of 5000 digits
            self._findings.refuse(place, "cannot be read as a value: put it in quotes, or write it plainly")
            return None

"""Every script says what it reads: the headers are compared with the indices that the code uses."""

import re

import pytest

from redis_router import ProviderHealth
from redis_router.circuit.record import SCHEMA
from redis_router.store import scripts

FILES = sorted(path for path in scripts.folder().glob("*.lua") if not path.name.startswith("_"))


def split(text: str) -> tuple[str, str]:
    lines = text.splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(lines[:end]), "\n".join(lines[end:])


def documented(header: str, array: str) -> tuple[set[int], int | None]:
    """Single indices, and the first of an open range."""
    single = {int(index) for index in re.findall(rf"^-- {array}\[(\d+)\]", header, re.MULTILINE)}
    ranges = re.findall(rf"^-- {array}\[(\d+)\.\.\]", header, re.MULTILINE)
    return single, int(ranges[0]) if ranges else None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_header_names_exactly_the_arguments_in_use(path):
    """KEYS[n] and ARGV[n] in the header are those in the code, no more and no less."""
    header, code = split(path.read_text())
    for array in ("KEYS", "ARGV"):
        single, rest = documented(header, array)
        used = {int(index) for index in re.findall(rf"\b{array}\[(\d+)\]", code)}
        loops = {int(start) for start in re.findall(rf"for \w+ = (\d+), #{array}\b", code)}
        assert single == used, f"{path.name}: {array}"
        assert loops == (set() if rest is None else {rest}), f"{path.name}: {array} range"


def test_both_sides_know_the_same_fields():
    """Of the same kind and default; Redis leaves out only what Python can do without."""
    text = (scripts.folder() / "_record.lua").read_text()
    listed = re.search(r"local FIELDS = \{(.*?)\n\}", text, re.DOTALL)[1].replace("SCHEMA", str(SCHEMA))
    rows = re.findall(r"'(\w+)', '(word|number)(\??)', ([^,]+),", listed)
    new = ProviderHealth("p")
    ours = new.to_fields()
    theirs = {field: default.strip("'") for field, _, _, default in rows}
    assert f"local SCHEMA = {SCHEMA}\n" in text
    assert theirs.keys() == ours.keys() | {"last_push_ms"}
    for field, value in theirs.items():
        assert ours.get(field, "0") in (value, f"{value}.0"), field
    for field, kind, optional, default in rows:
        assert (kind == "word") == default.startswith("'"), field
        if optional:
            assert ProviderHealth.from_fields("p", {f: v for f, v in ours.items() if f != field}) == new, field


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_header_tells_purpose_reply_and_reason(path):
    """A reader learns what it does, what it returns, and why it must be one script."""
    header, _ = split(path.read_text())
    assert header.splitlines()[0][3:].endswith(".")
    assert "-- Returns " in header
    assert "-- Why one script: " in header


@pytest.mark.parametrize(
    "path", [*FILES, *(scripts.folder() / f"{part}.lua" for part in scripts.COMMON)], ids=lambda path: path.stem
)
def test_no_globals(path):
    """A global would be refused by Redis and poison fakeredis: assignments go to locals, fields or known names."""
    text = re.sub(r"--[^\n]*", "", path.read_text())
    declared = set(re.findall(r"\blocal (?:function )?([\w, ]+)", text))
    names = {name.strip() for group in declared for name in group.split(",")}
    names |= {"now", "now_us", "seq", "epoch"}
    assigned = {
        name.strip()
        for group in re.findall(r"^\s*([a-z_][\w]*(?:, *[a-z_]\w*)*) = ", text, re.MULTILINE)
        for name in group.split(",")
    }
    fields = set(re.findall(r"[{,]\s*(\w+) = ", text))  # table constructors
    assert assigned - names - fields == set()
    assert not re.search(r"^function ", text, re.MULTILINE)


def test_every_script_has_a_store_method():
    """One spelling each: the scripts on disk are those that the store calls."""
    import inspect

    from redis_router.store import redis, redis_presence

    called = set(
        re.findall(
            r'(?:_redis\.run|scripts\.load)\(\s*"(\w+)"', "".join(map(inspect.getsource, (redis, redis_presence)))
        )
    )
    assert {path.stem for path in FILES} == called

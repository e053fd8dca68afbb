"""Whatever a file holds: it is read, or refused as BadConfig; and no secret of it is ever said."""

import re
import tempfile
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from redis_router.gateway.config import BadConfig, load
from redis_router.gateway.config.known import KNOWN, OUR_KEYS, TOP
from tests.gateway.configs import ENVIRON, SECRET

HEX = "0123456789abcdef0123456789abcdef"
FILE = f"""
model_list:
  - model_name: gpt-4o
    litellm_params: &params
      model: openai/gpt-4o
      api_key: {SECRET}
      api_base: https://proxy.example/v1
      extra_headers: {{x-token: {HEX}, x-other: 'Bearer {SECRET}'}}
      timeout: 5
  - model_name: claude
    litellm_params: {{<<: *params, model: anthropic/claude, weight: 2}}
    model_info: {{id: "claude"}}
litellm_settings:
  fallbacks: [{{"gpt-4o": ["claude"]}}]
  num_retries: 3
general_settings:
  master_key: {SECRET}
gateway_settings:
  keys:
    - {{name: alice, sha256: "{HEX}"}}
  deadline: 3.5
  forward_headers: [x-a]
"""
TOKENS = [
    "\n",
    " ",
    "  ",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "*params",
    "<<: ",
    "!!int ",
    "!x ",
    '"',
    "'",
    "|",
    ">",
]
TOKENS += [
    "? ",
    "#",
    ",",
    "%",
    "@",
    "`",
    "---\n",
    "...\n",
    "\t",
    "null",
    "~",
    "1e400",
    "0x",
    "\\U",
    "\ufeff",
    "\u2028",
    "\ud7ff",
]
SECRETS = (SECRET, HEX, *ENVIRON.values())


def said(content):
    """All that reading a file with these bytes says, a line each. Raises what it should not."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.yaml"
        path.write_bytes(content)
        try:
            lines = load(path, ENVIRON).notes
        except BadConfig as error:
            lines = error.problems or ("no problem at all",)
    assert all(re.match(rf"{re.escape(str(path))}:\d+: .+", each) for each in lines)
    return "\n".join(lines)


@some.composite
def mutated(draw):
    """The file, with some places cut, doubled, moved or overwritten."""
    text = FILE
    for _ in range(draw(some.integers(1, 6))):
        begin = draw(some.integers(0, len(text)))
        end = min(len(text), begin + draw(some.sampled_from([0, 0, 1, 2, 5, 40])))
        new = draw(some.sampled_from(["", text[begin:end] * 2, *TOKENS]) | some.text(max_size=3))
        text = text[:begin] + new + text[end:]
    if draw(some.booleans()):
        lines = text.splitlines()
        lines.insert(draw(some.integers(0, len(lines))), lines.pop(draw(some.integers(0, len(lines) - 1))))
        text = "\n".join(lines)
    return text.encode("utf-8", "surrogatepass")


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_a_mutated_file(content):
    """As after a slip of the hand."""
    words = said(content)
    text = content.decode("utf-8", "replace")
    for secret in SECRETS:
        assert secret not in words or secret not in text


KEYS = [*TOP.used, *OUR_KEYS, *(key for known in KNOWN.values() for key in (*known.used, *known.refused))]
KEYS += ["model_name", "litellm_params", "model_info", "name", "sha256", "rpm", "timeout", "gpt-4o", "claude", "", "*"]
TEXTS = ["", " ", "gpt-4o", "claude", "*", "openai/x", "azure/x", "bedrock/x", "anthropic/", "adaptive", "Host", "x-a"]
TEXTS += [
    "os.environ/OPENAI_API_KEY",
    "os.environ/",
    "os.environ/NO",
    "http://x/v1",
    "https://[::1]:80/",
    "http://a:b@c",
]
TEXTS += ["http://:0", "//", SECRET, HEX * 2, "\x85", "a\nb"]
SCALARS = some.sampled_from([None, True, 0, 1, -1, 2.5, float("nan"), float("inf"), 10**400, *TEXTS])
VALUES = some.recursive(
    SCALARS,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)
ENTRIES = some.fixed_dictionaries(
    {
        "model_name": SCALARS,
        "litellm_params": some.dictionaries(some.sampled_from(sorted(KNOWN["litellm_params"].used)), SCALARS),
    },
    optional={"model_info": some.fixed_dictionaries({"id": SCALARS})},
)


def section(known):
    """Its keys, with anything as values."""
    return some.dictionaries(some.sampled_from(sorted(known)), VALUES, max_size=4)


FILES = VALUES | some.fixed_dictionaries(
    {"model_list": some.lists(ENTRIES | VALUES, max_size=3)},
    optional={
        "litellm_settings": section(KNOWN["litellm_settings"].used),
        "router_settings": section(KNOWN["router_settings"].used),
        "general_settings": section(KNOWN["general_settings"].used),
        "gateway_settings": section(OUR_KEYS),
    },
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(FILES)
def test_any_values_in_any_place(value):
    """Every key with a value that it was not made for."""
    words = said(yaml.safe_dump(value, allow_unicode=True).encode())
    assert not [secret for secret in (*ENVIRON.values(), HEX * 2) if secret in words]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(some.binary(max_size=200) | some.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes(content):
    """Nothing of the file's form at all."""
    said(content)

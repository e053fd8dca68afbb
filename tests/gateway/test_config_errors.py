"""Files that the gateway refuses: every problem at once, with its line, its key, and what to do; secrets never."""

import os

import pytest

from redis_router import InvalidArgument
from redis_router.gateway.config import BadConfig, load
from redis_router.gateway.keys import hashed
from tests.gateway.configs import ENVIRON, GPT, SECRET, entry, loaded

CLAUDE = "  - {model_name: claude, litellm_params: {model: anthropic/claude-3-haiku-20240307}}\n"


def problems(tmp_path, text, environ=ENVIRON):
    """Of a file that is refused, without the folder."""
    with pytest.raises(BadConfig) as refused:
        loaded(tmp_path, text, environ)
    assert str(refused.value) == "\n".join(refused.value.problems)
    return [each.removeprefix(f"{tmp_path}/") for each in refused.value.problems]


def with_settings(section, line):
    """The smallest file, and one setting in line 6."""
    return f"{GPT}{section}:\n  {line}\n"


PARAMS = [
    ("model: openai/gpt-4o\napi_bas: https://x.example", 5, "unknown key: did you mean api_base?"),
    ("model: openai/gpt-4o\napi-key: os.environ/OPENAI_API_KEY", 5, "did you mean api_key?"),
    ("model: openai/gpt-4o\nextra_header: {a: b}", 5, "did you mean extra_headers?"),
    ("modle: openai/gpt-4o", 4, "did you mean model?"),
    ("model: opnai/gpt-4o", 4, "'opnai/gpt-4o': the prefix is not known. Did you mean openai/…?"),
    ("model: meta-llama/Llama-3-8b", 4, "write openai/… with api_base"),
    ("model: bedrock/anthropic.claude-v2", 4, "nothing is translated"),
    ("model: vertex_ai/gemini-1.5-pro", 4, "nothing is translated"),
    ("model: gemini/gemini-1.5-flash", 4, "nothing is translated"),
    ("model: gemini-1.5-pro", 4, "is not OpenAI's"),
    ("model: claude-3-5-sonnet-20241022", 4, "write anthropic/…"),
    ("model: ollama/llama3", 4, "http://localhost:11434/v1"),
    ("model: azure_ai/mistral", 4, "/openai/v1"),
    ("model: vllm/llama3", 4, "hosted_vllm/"),
    ("model: openai/*", 4, "name one model after the prefix"),
    ("model: openai/", 4, "name one model after the prefix"),
    ("model: openai/responses/gpt-5", 4, "give the name alone"),
    ("model: fireworks_ai/llama-v3", 4, "fireworks_ai/accounts/fireworks/models/"),
    ("model: 4", 4, "model: is 4: put it in quotes"),
    ("model: [openai/gpt-4o]", 4, "is a list: give a text"),
    ('model: ""', 4, "is empty"),
    ('model: "a\\nb"', 4, "on one line"),
    ("model: groq/x", 4, "has no key: set GROQ_API_KEY"),
    ("model: azure/dep\napi_base: https://e.openai.azure.com", 4, "needs api_version, such as '2024-10-21'"),
    ("model: azure/dep\napi_version: '2024-10-21'", 4, "needs api_base, such as os.environ/AZURE_API_BASE"),
    (
        "model: azure/dep\napi_base: https://e.openai.azure.com/openai/v1\napi_version: '2024-10-21'",
        6,
        "leave it out: api_base ends with /openai/v1",
    ),
    ("model: azure/dep\napi_base: https://e.openai.azure.com\napi_version: preview", 6, "end api_base with /openai/v1"),
    (
        "model: azure/dep\napi_base: https://e.openai.azure.com/openai/deployments/dep\napi_version: '2024-10-21'",
        5,
        "give the resource alone",
    ),
    ("model: azure/dep\nazure_ad_token: os.environ/AD", 5, "give api_key"),
    ("model: hosted_vllm/llama3", 4, "needs api_base, such as os.environ/HOSTED_VLLM_API_BASE"),
    ("model: anthropic/c\napi_base: https://x.example/v1", 5, "leave out /v1"),
    ("model: anthropic/c\napi_base: https://x.example/v1/messages", 5, "leave out /messages"),
    ("model: openai/x\napi_base: https://x.example/v1/chat/completions", 5, "leave out /chat/completions"),
    ("model: openai/x\napi_base: x.example/v1", 5, "'x.example/v1': give a URL such as"),
    ("model: openai/x\napi_base: https://x.example:99999/v1", 5, "give a URL"),
    ("model: openai/x\napi_base: https://[x.example/v1", 5, "give a URL"),
    ("model: openai/x\napi_base: https://x.example/v1?key=abc", 5, "leave out what follows the path"),
    ("model: openai/x\napi_base: https://me:pass@x.example/v1", 5, "holds a login: give api_key"),
    ("model: openai/x\napi_base: os.environ/NOT_THERE", 5, "the variable NOT_THERE is not set"),
    ("model: openai/x\napi_base: https://os.environ/HOST/v1", 5, "are to be the whole value"),
    ("model: openai/x\nbase_url: https://x.example/v1", 5, "write api_base"),
    ("model: openai/x\napi_key: os.environ/EMPTY", 5, "the variable EMPTY is empty"),
    ("model: openai/x\napi_key: 'two words'", 5, "not shown here: give ASCII without blanks"),
    ("model: openai/x\nweight: heavy", 5, "is 'heavy': give a number from 0 to 1e+06"),
    ("model: openai/x\nweight: -1", 5, "is -1"),
    ("model: openai/x\nweight: 0.0000001", 5, "is 1e-07: give 0.000001 or more, or 0 for no calls at all"),
    ("model: openai/x\nweight: .nan", 5, "is nan"),
    ("model: openai/x\nweight: true", 5, "is True"),
    ("model: openai/x\nweight: 0x" + "f" * 300, 5, "is a huge number"),
    ("model: openai/x\nextra_headers: {Host: a.example}", 5, "extra_headers.Host: is of the connection"),
    ('model: openai/x\nextra_headers: {"a b": c}', 5, "is no name of a header"),
    ("model: openai/x\nextra_headers: {x-a: 1, X-A: '1'}", 5, "x-a: is 1: put it in quotes"),
    ("model: openai/x\nextra_headers: {x-a: '1', X-A: '2'}", 5, "is there twice"),
    ("model: x\ncustom_llm_provider: groq", 5, "write it in front of the model"),
    ("model: x\nmaster_key: os.environ/LITELLM_MASTER_KEY", 5, "it belongs into general_settings"),
    ("model: openai/x\nmodel: openai/y", 5, "is there twice, at first in line 4"),
    ("model: openai/x\nmock_response: hello", 5, "take it out"),
    ("model: !vault abc", 4, "has a tag"),
    ("model: hosted_vllm/a b\napi_base: http://x/v1", 2, "cannot be a provider's name"),
    ("model: openai/" + "long-" * 20, 2, "cannot be a provider's name"),
]


@pytest.mark.parametrize(("params", "line", "words"), PARAMS, ids=[params[:60] for params, _, _ in PARAMS])
def test_parameters_of_an_entry(tmp_path, params, line, words):
    """One wrong thing, one problem, in its line."""
    (problem,) = [each for each in problems(tmp_path, entry(params), ENVIRON | {"EMPTY": " "}) if words in each]
    assert problem.startswith(f"config.yaml:{line}: model_list[0]")


SETTINGS = [
    ("litellm_settings", "num_retrys: 3", "unknown key: did you mean num_retries?"),
    ("litellm_settings", "num_retries: -1", "is -1: give a number from 0"),
    ("litellm_settings", "num_retries: 1.5", "give a whole number"),
    ("litellm_settings", "request_timeout: ten", "is 'ten': give a number from 0.001 to 604800"),
    ("litellm_settings", "request_timeout: 1e3", "is '1e3'"),
    ("litellm_settings", "master_key: os.environ/LITELLM_MASTER_KEY", "it belongs into general_settings"),
    ("litellm_settings", "guardrails: []", "no guardrail runs here"),
    ("litellm_settings", "fallbacks: [{gpt-4o: [gpt-4]}]", "'gpt-4' is no model of model_list: did you mean 'gpt-4o'?"),
    ("litellm_settings", "fallbacks: [{zzz: [gpt-4o]}]", "'zzz' is no model of model_list: add an entry"),
    ("litellm_settings", "fallbacks: [{gpt-4o: [gpt-4o]}]", "is asked already"),
    ("litellm_settings", "fallbacks: [{gpt-4o: gpt-4o}]", "is 'gpt-4o': give a list"),
    ("litellm_settings", 'fallbacks: [{"*": [gpt-4o]}]', "patterns are not read"),
    ("litellm_settings", "fallbacks: [gpt-4o]", "is 'gpt-4o': give a mapping"),
    ("litellm_settings", "fallbacks: [{gpt-4o: [{model: x}]}]", "is a mapping: give a text"),
    ("router_settings", "timeout: 0", "is 0: give a number from 0.001"),
    ("router_settings", "fallback: []", "did you mean fallbacks?"),
    ("router_settings", "gateway: {}\n  deadline: 3", "it belongs into gateway_settings"),
    ("general_settings", f"master_key: {SECRET}", "a key does not stand in the file"),
    ("general_settings", "master_key: os.environ/SHORT", "fewer than 16 characters"),
    ("general_settings", "master_key: os.environ/NOT_THERE", "the variable NOT_THERE is not set"),
    ("general_settings", "masterkey: os.environ/LITELLM_MASTER_KEY", "did you mean master_key?"),
    ("general_settings", "custom_auth: auth.user_api_key_auth", "is no way to log in here"),
    ("general_settings", "allowed_ips: [10.0.0.1]", "let your network do it"),
    ("gateway_settings", "dedline: 3", "did you mean deadline?"),
    ("gateway_settings", "port: 4000", "known here are allow_anyone, deadline, "),
    ("gateway_settings", "deadline: 9000000", "to 604800"),
    ("gateway_settings", "{deadline: 30, longest_deadline: 20}", "is 20, and the deadline 30"),
    ("gateway_settings", "max_attempts: 0", "is 0: give a number from 1"),
    ("gateway_settings", "max_body_mb: 5000", "to 1024"),
    ("gateway_settings", "strategy: fastest", "is 'fastest': choose adaptive, latency, "),
    ("gateway_settings", "allow_anyone: 'yes'", "give true or false"),
    ("gateway_settings", "forward_headers: [Authorization]", "goes to nobody"),
    ("gateway_settings", "forward_headers: [Cookie]", "goes to nobody"),
    ("gateway_settings", "forward_headers: [Transfer-Encoding]", "is of the connection"),
    ("gateway_settings", "forward_headers: ['x y']", "give the name of a header"),
    ("gateway_settings", "forward_headers: x-tenant", "is 'x-tenant': give a list"),
    ("gateway_settings", f"keys: [{{name: a, sha256: {SECRET}}}]", "is no hash of a key"),
    ("gateway_settings", f"keys: [{{name: a, sha256: {hashed('')}}}]", "is no hash of a key"),
    ("gateway_settings", f"keys: [{{name: 'a b', sha256: {hashed('a')}}}]", "give 1 to 64 letters"),
    ("gateway_settings", "keys: [{name: a}]", "has no sha256"),
    ("gateway_settings", f"keys: [{{sha256: {hashed('a')}}}]", "has no name"),
    ("gateway_settings", f"keys: [{SECRET}]", "is not shown here: give a mapping"),
    ("gateway_settings", "keys: [{name: a, key: b}]", "unknown key"),
    (
        "gateway_settings",
        f"keys: [{{name: a, sha256: {hashed('a')}}}, {{name: b, sha256: {hashed('a')}}}]",
        "has the hash of the key in line 6",
    ),
    (
        "gateway_settings",
        f"keys: [{{name: a, sha256: {hashed('a')}}}, {{name: a, sha256: {hashed('b')}}}]",
        "has the name of the key in line 6",
    ),
    (
        "gateway_settings",
        f"{{allow_anyone: true, keys: [{{name: a, sha256: {hashed('a')}}}]}}",
        "is true, and there are keys",
    ),
]


@pytest.mark.parametrize(("section", "line", "words"), SETTINGS, ids=[f"{each[0]} {each[1][:50]}" for each in SETTINGS])
def test_settings(tmp_path, section, line, words):
    """One wrong thing, and what to do about it."""
    found = problems(tmp_path, with_settings(section, line), ENVIRON | {"SHORT": "sk-1234"})
    (problem,) = [each for each in found if words in each]
    assert problem.startswith((f"config.yaml:6: {section}", f"config.yaml:7: {section}"))
    assert SECRET not in problem


TOPS = [
    ("", "config.yaml:1: the file is empty: give model_list"),
    ("# nothing\n", "config.yaml:1: the file is empty: give model_list"),
    ("- a\n", "config.yaml:1: the file is a list: give a mapping"),
    ("model_list: []\n", "config.yaml:1: model_list: has no model"),
    ("litellm_settings: {}\n", "config.yaml:1: the file has no model"),
    ("model_lst: []\n", "config.yaml:1: model_lst: unknown key: did you mean model_list?"),
    (GPT + "guardrails: []\n", "guardrails: no guardrail runs here"),
    (GPT + "include: [other.yaml]\n", "include: one file is read"),
    (GPT + "credential_list: []\n", "credential_list: is not read"),
    (GPT + "what: ever\n", "what: unknown key: known here are gateway_settings"),
    ("model_list: gpt-4o\n", "model_list: is 'gpt-4o': give a list"),
    ("model_list: [gpt-4o]\n", "model_list[0]: is 'gpt-4o': give a mapping"),
    ("model_list: [{model_name: a}]\n", "model_list[0]: has no litellm_params"),
    ("model_list: [{litellm_params: {model: gpt-4o}}]\n", "model_list[0]: has no model_name"),
    ("model_list: [{model_name: a, litellm_params: {}}]\n", "model_list[0].litellm_params: has no model"),
    ("model_list: [{model_name: '*', litellm_params: {model: gpt-4o}}]\n", "patterns are not read"),
    ("model_list: [{model_name: a, model: gpt-4o}]\n", "model_list[0].model: unknown key"),
    ("model_list:\n  - a: 1\n b: 2\n", "config.yaml:3: the file is no YAML"),
    ("a: 'open\n", "config.yaml:2: the file is no YAML"),
    ("a: *nobody\n", "config.yaml:1: the file is no YAML: found undefined alias (not shown)"),
    ("a: 1\n---\nb: 2\n", "config.yaml:2: the file is no YAML: expected a single document"),
    ('a: "\\UFFFFFFFF"\n', "a character that cannot be there"),
    ("a: \x07\n", "config.yaml:1: the file is no YAML: it has a character that cannot be there"),
    ("a: &a [*a]\n", "nested more than 32 deep"),
    ("[" * 3000, "nested more than 32 deep"),
    ("{? [a] : b}\n", "a key of it is no text"),
    ("<<: 1\n", "merges what is no mapping"),
]


@pytest.mark.parametrize(("text", "words"), TOPS, ids=[repr(text[-40:]) for text, _ in TOPS])
def test_the_file_as_a_whole(tmp_path, text, words):
    """What cannot be read at all, and what is missing."""
    assert any(words in each for each in problems(tmp_path, text)), problems(tmp_path, text)


def test_all_problems_at_once(tmp_path):
    """In the order of the file: nobody wants to start it five times."""
    text = """
    model_list:
      - model_name: a
        litellm_params: {model: groq/x}
      - model_name: b
        litellm_params: {model: bedrock/x}
    litellm_settings:
      fallbacks: [{a: [b, c]}]
    router_settings:
      timeout: -1
    general_settings:
      master_key: sk-1234
    """
    found = problems(tmp_path, text)
    assert [each.split(":")[1] for each in found] == ["3", "5", "7", "9", "11"]


@pytest.mark.parametrize(
    "params",
    [
        "model: openai/x\napi_base: https://me:hunter2@x.example/v1",
        "model: openai/x\napi_base: htps://me:hunter2@x.example/v1",
        "model: openai/https://me:hunter2@x.example/v1",
        "model: xxx/me:hunter2@x.example/v1",
        "model: hosted_vllm/me:hunter2@;\napi_base: http://x.example",
        "model: openai/x\napi_base: https://x.example/v1?key=hunter2",
        "model: openai/x\napi_key: [hunter2]",
        "model: openai/x\napi_key: 'hunter2 hunter2'",
        "model: openai/x\napi_key: *hunter2",
        "model: openai/x\napi_keey: hunter2",
        "model: openai/x\nextra_headers: {authorization: 'Bearer hunter2\u00e9'}",
    ],
)
def test_what_may_be_a_secret_is_not_said(tmp_path, params):
    """A login in a URL, a key in the wrong place."""
    assert "hunter2" not in str(problems(tmp_path, entry(params), {}))


def test_two_of_one_name(tmp_path):
    """They differ in their key, and a circuit for both would be wrong."""
    text = GPT + GPT.replace("model_list:\n", "") + "      api_key: os.environ/AZURE_API_KEY\n"
    (problem,) = problems(tmp_path, text)
    assert problem.startswith("config.yaml:5: model_list[1]: is a provider 'openai/gpt-4o', as the entry in line 2")
    assert problem.endswith("give each a model_info.id of its own")
    assert len(loaded(tmp_path, text + "    model_info: {id: second}\n").settings.providers) == 2


def test_two_of_one_id(tmp_path):
    """Copied, and the id forgotten."""
    text = entry("model: openai/a", "a", model_info="{id: x}")
    (problem,) = problems(tmp_path, text + entry("model: openai/b", "b", model_info="{id: x}").partition("\n")[2])
    assert "is a provider 'x', as the entry in line 2, and differs from it" in problem


def test_a_model_speaks_one_api(tmp_path):
    """Nothing is translated."""
    (problem,) = problems(tmp_path, GPT + CLAUDE.replace("name: claude", "name: gpt-4o"))
    assert "speaks the API of anthropic, the entry of the same model_name in line 2 that of openai" in problem


def test_a_fallback_speaks_the_same_api(tmp_path):
    """Nor in a fallback."""
    (problem,) = problems(tmp_path, GPT + CLAUDE + "router_settings: {fallbacks: [{gpt-4o: [claude]}]}\n")
    assert "fallbacks[0].gpt-4o[0]: speaks the API of anthropic, and 'gpt-4o' that of openai" in problem


@pytest.mark.parametrize("variable", ["OPENAI_BASE_URL", "OPENAI_API_BASE"])
def test_a_base_url_of_the_environment_goes_into_the_file(tmp_path, variable):
    """Else two replicas of one file could go to different places under one name."""
    (problem,) = problems(tmp_path, GPT, ENVIRON | {variable: "https://proxy.example/v1"})
    assert f"write api_base: os.environ/{variable}" in problem


def test_files_that_are_none(tmp_path):
    """A folder, nothing at all, something huge, another encoding, a name that cannot be."""
    (tmp_path / "huge").write_bytes(b"a" * (1 << 20) + b"a")
    (tmp_path / "latin").write_bytes(b"# a\n# caf\xe9\n")
    for name, words in {
        "": ":1: the file cannot be read: Is a directory",
        "missing": ":1: the file cannot be read: No such file",
        "huge": ":1: the file has more than 1 MiB",
        "latin": ":2: the file is not UTF-8",
        "nu\0ll": "the file cannot be read",
    }.items():
        with pytest.raises(BadConfig, match=words):
            load(os.path.join(tmp_path, name), ENVIRON)


def test_aliases_do_not_multiply_without_end(tmp_path):
    """A few lines would be a billion values."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    (problem,) = problems(tmp_path, "\n".join(lines))
    assert "has more than 200,000 values, with what aliases repeat" in problem


def test_it_is_an_invalid_argument():
    """As all that the library refuses."""
    assert issubclass(BadConfig, InvalidArgument)

"""Files that the gateway can use: each becomes providers, models and settings, and says what has no effect."""

import pytest

from redis_router.gateway.config import load
from redis_router.gateway.keys import hashed
from redis_router.gateway.settings import Key, Settings
from tests.gateway.configs import ENVIRON, GPT, MASTER, SECRET, entry, loaded, upstream


def test_the_smallest_file(tmp_path):
    """One entry: the provider's usual base URL and variable, and the defaults of all settings."""
    found = loaded(tmp_path, GPT)
    (provider,) = found.settings.providers
    assert (provider.name, provider.models, provider.weight) == ("openai/gpt-4o", ("gpt-4o",), 1.0)
    assert (provider.client.base_url, provider.client.api_key) == ("https://api.openai.com/v1", SECRET)
    assert found.notes == ()
    assert found.settings == Settings(found.settings.providers, {"gpt-4o": "openai"})


WHOLE = """
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: openai/gpt-4o
      api_key: os.environ/OPENAI_API_KEY
      rpm: 6
      organization: org-mine
    model_info: {id: openai-main, mode: chat}
  - model_name: gpt-4o
    litellm_params: &azure
      model: azure/gpt-4o-eu
      api_base: https://example-eu.openai.azure.com/
      api_key: os.environ/AZURE_API_KEY
      api_version: 2024-10-21
      weight: 3
  - model_name: gpt-4o-eu
    litellm_params:
      <<: *azure
  - model_name: claude
    litellm_params: {model: anthropic/claude-3-5-sonnet-20241022, extra_headers: {anthropic-beta: "a,b"}}
litellm_settings:
  num_retries: 3
  request_timeout: 10
  fallbacks: [{"gpt-4o-eu": ["gpt-4o"]}]
  drop_params: True
  set_verbose: True
router_settings:
  routing_strategy: usage-based-routing-v2
  redis_host: os.environ/REDIS_HOST
  num_retries: 2
  timeout: 30
  stream_timeout: 5.5
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
  database_url: os.environ/DATABASE_URL
"""


def test_a_whole_file_of_litellms(tmp_path):
    """Everything that means something here is in the settings, and everything else in the notes."""
    found = loaded(tmp_path, WHOLE)
    settings = found.settings
    assert [(each.name, each.models, each.weight) for each in settings.providers] == [
        ("openai-main", ("gpt-4o",), 1.0),
        ("azure/gpt-4o-eu@example-eu.openai.azure.com", ("gpt-4o", "gpt-4o-eu"), 3.0),
        ("anthropic/claude-3-5-sonnet-20241022", ("claude",), 1.0),
    ]
    openai, azure, anthropic = (each.client for each in settings.providers)
    assert openai.headers == {"openai-organization": "org-mine"}
    assert (azure.base_url, azure.api_version) == ("https://example-eu.openai.azure.com", "2024-10-21")
    assert azure.models == {"gpt-4o": "gpt-4o-eu"}
    assert anthropic.base_url == "https://api.anthropic.com"
    assert anthropic.headers == {"anthropic-beta": "a,b"}
    assert anthropic.models == {"claude": "claude-3-5-sonnet-20241022"}
    assert settings.apis == {"gpt-4o": "openai", "gpt-4o-eu": "openai", "claude": "anthropic"}
    assert settings.fallbacks == {"gpt-4o-eu": ("gpt-4o",)}
    assert (settings.deadline, settings.first_token_timeout, settings.max_attempts) == (30.0, 5.5, 3)
    assert settings.keys == (Key("master_key", hashed(MASTER)),)
    keys = [note.split(": ")[1].rpartition(".")[2] for note in found.notes]
    assert keys == [
        "rpm",
        "mode",
        "num_retries",
        "request_timeout",
        "drop_params",
        "set_verbose",
        "routing_strategy",
        "redis_host",
        "database_url",
    ]
    assert all(note.startswith(f"{tmp_path}/config.yaml:") and note.endswith(".") for note in found.notes)


@pytest.mark.parametrize(
    ("model", "variable", "base", "name"),
    [
        ("gpt-4o", "OPENAI_API_KEY", "https://api.openai.com/v1", "openai/gpt-4o"),
        ("text-completion-openai/babbage-002", "OPENAI_API_KEY", "https://api.openai.com/v1", None),
        ("anthropic/claude-3-haiku-20240307", "ANTHROPIC_API_KEY", "https://api.anthropic.com", None),
        ("groq/llama-3.3-70b-versatile", "GROQ_API_KEY", "https://api.groq.com/openai/v1", None),
        ("mistral/mistral-large-latest", "MISTRAL_API_KEY", "https://api.mistral.ai/v1", None),
        ("deepseek/deepseek-chat", "DEEPSEEK_API_KEY", "https://api.deepseek.com/beta", None),
        ("together_ai/Qwen/Qwen2.5-7B", "TOGETHERAI_API_KEY", "https://api.together.ai/v1", None),
        ("openrouter/openai/gpt-4o", "OPENROUTER_API_KEY", "https://openrouter.ai/api/v1", None),
        ("openrouter/openai/gpt-4o", "OR_API_KEY", "https://openrouter.ai/api/v1", None),
        (
            "fireworks_ai/accounts/fireworks/models/x",
            "FIREWORKS_API_KEY",
            "https://api.fireworks.ai/inference/v1",
            None,
        ),
        ("xai/grok-2", "XAI_API_KEY", "https://api.x.ai/v1", None),
        ("perplexity/sonar", "PERPLEXITYAI_API_KEY", "https://api.perplexity.ai", None),
        ("deepinfra/x/y", "DEEPINFRA_API_KEY", "https://api.deepinfra.com/v1/openai", None),
    ],
)
def test_the_prefix_says_where_and_whose_key(tmp_path, model, variable, base, name):
    """As LiteLLM has them; what follows the first slash is the provider's name of the model."""
    found = loaded(tmp_path, entry(f"model: {model}", "m"), {variable: "key-of-the-test"})
    assert (upstream(found).base_url, upstream(found).api_key) == (base, "key-of-the-test")
    assert found.settings.providers[0].name == (name or model)
    assert upstream(found).models == {"m": model.partition("/")[2] or model}


def test_vllm_needs_no_key(tmp_path):
    """Its server is one's own, in OpenAI's API."""
    found = loaded(tmp_path, entry("model: hosted_vllm/llama3\napi_base: http://10.0.0.7:8000/v1", "llama"), {})
    assert (upstream(found).base_url, upstream(found).api_key) == ("http://10.0.0.7:8000/v1", None)
    assert found.settings.providers[0].name == "hosted_vllm/llama3@10.0.0.7:8000"
    assert found.notes == ()


def test_a_base_of_ones_own_needs_no_key(tmp_path):
    """Whatever speaks OpenAI's API."""
    assert upstream(loaded(tmp_path, entry("model: openai/x\napi_base: http://localhost:11434/v1"), {})).api_key is None


def test_a_usual_key_that_goes_elsewhere_is_said(tmp_path):
    """LiteLLM sends it without a word."""
    found = loaded(tmp_path, entry("model: openai/x\napi_base: https://proxy.example/v1"))
    assert upstream(found).api_key == SECRET
    (note,) = found.notes
    assert "the key of OPENAI_API_KEY goes to proxy.example" in note


def test_azures_newer_api_has_no_version(tmp_path):
    """Its base URL is one of OpenAI's."""
    base = "https://example.openai.azure.com/openai/v1"
    found = upstream(loaded(tmp_path, entry(f"model: azure/gpt-4o\napi_base: {base}/")))
    assert (found.base_url, found.api_version, found.api_key) == (base, None, "azure-key-of-the-tests")


def test_a_key_in_the_file_is_used_and_noted(tmp_path):
    """It works, and should not stand there."""
    found = loaded(tmp_path, entry(f"model: openai/gpt-4o\napi_key: {SECRET}"), {})
    assert upstream(found).api_key == SECRET
    (note,) = found.notes
    assert ":5: model_list[0].litellm_params.api_key: stands in the file" in note


def test_credentials_in_a_header_are_a_key(tmp_path):
    """No other is asked for, or sent."""
    text = entry("model: groq/x\nextra_headers:\n  Authorization: os.environ/GATEWAY_TOKEN")
    found = upstream(loaded(tmp_path, text, {"GATEWAY_TOKEN": "Bearer abc"}))
    assert (found.api_key, found.headers) == (None, {"authorization": "Bearer abc"})


def test_variables_may_stand_for_any_text_or_number(tmp_path):
    """The whole value, as LiteLLM has it; a line break at its end is none of it."""
    text = entry("model: os.environ/MODEL\napi_base: os.environ/BASE", "os.environ/NAME")
    text += "gateway_settings: {deadline: os.environ/SECONDS}\n"
    environ = {"MODEL": "openai/x", "BASE": "http://a.example/v1", "NAME": "mine\n", "SECONDS": "12.5"}
    found = loaded(tmp_path, text, environ)
    assert found.settings.apis == {"mine": "openai"}
    assert found.settings.providers[0].name == "openai/x@a.example"
    assert found.settings.deadline == 12.5


def test_variables_of_what_has_no_effect_need_not_be_set(tmp_path):
    """The database of LiteLLM's is not used."""
    (note,) = loaded(tmp_path, GPT + "general_settings: {database_url: os.environ/NOT_SET}\n").notes
    assert "general_settings.database_url: has no effect: there is no database" in note


OURS = (
    GPT
    + f"""
gateway_settings:
  keys:
    - {{name: alice, sha256: {hashed("a" * 20)}}}
    - {{name: team/bob, sha256: {hashed("b" * 20).upper()}}}
  deadline: 20
  longest_deadline: 40
  first_token_timeout: 4
  max_attempts: 2
  forward_headers: [X-Tenant, x-trace-id]
  max_body_mb: 0.5
  strategy: latency
"""
)


def test_our_own_settings(tmp_path):
    """All of them."""
    settings = loaded(tmp_path, OURS).settings
    assert settings.keys == (Key("alice", hashed("a" * 20)), Key("team/bob", hashed("b" * 20)))
    assert (settings.deadline, settings.longest_deadline, settings.first_token_timeout) == (20.0, 40.0, 4.0)
    assert (settings.max_attempts, settings.max_body, settings.strategy) == (2, 512 * 1024, "latency")
    assert settings.forward_headers == {"x-tenant", "x-trace-id"}
    assert settings.allow_anyone is False


def test_ours_go_before_litellms(tmp_path):
    """What is passed over is said, with the line that counts."""
    text = OURS + "router_settings: {timeout: 99, num_retries: 9}\nlitellm_settings: {request_timeout: 999}\n"
    found = loaded(tmp_path, text)
    assert (found.settings.deadline, found.settings.max_attempts) == (20.0, 2)
    assert len([note for note in found.notes if "gateway_settings.deadline in line 10 counts" in note]) == 2


def test_a_long_deadline_may_be_asked_for_too(tmp_path):
    """LiteLLM's own default is 6000 s."""
    settings = loaded(tmp_path, GPT + "litellm_settings: {request_timeout: 6000}\n").settings
    assert (settings.deadline, settings.longest_deadline) == (6000.0, 6000.0)


def test_no_retries_are_one_attempt(tmp_path):
    """LiteLLM counts the tries after the first."""
    assert loaded(tmp_path, GPT + "litellm_settings: {num_retries: 0}\n").settings.max_attempts == 1


def test_anyone_may_be_allowed(tmp_path):
    """It must be said."""
    settings = loaded(tmp_path, GPT + "gateway_settings: {allow_anyone: true}\n").settings
    assert (settings.keys, settings.allow_anyone) == ((), True)


def test_a_name_depends_on_its_entry_alone(tmp_path):
    """Replicas with other entries beside it share its circuit."""
    second = GPT.replace("model_list:\n", "")
    alone = loaded(tmp_path, GPT).settings.providers[0].name
    beside = loaded(tmp_path, GPT + second.replace("gpt-4o", "gpt-4o-mini")).settings.providers
    assert [each.name for each in beside] == [alone, "openai/gpt-4o-mini"]


def test_the_same_entry_twice_counts_once(tmp_path):
    """In LiteLLM it would have twice the share."""
    found = loaded(tmp_path, GPT + GPT.replace("model_list:\n", ""))
    assert len(found.settings.providers) == 1
    assert "give weight" in found.notes[0]


def test_what_has_no_effect_is_said_once_for_all_entries(tmp_path):
    """A file of LiteLLM's has it in each."""
    lines = [f"  - {{model_name: m{each}, litellm_params: {{model: openai/m{each}, rpm: 5}}}}\n" for each in range(20)]
    (note,) = loaded(tmp_path, "model_list:\n" + "".join(lines)).notes
    assert ":2: model_list[0].litellm_params.rpm (and 19 more): has no effect" in note


def test_dates_and_byte_order_marks_are_read(tmp_path):
    """Editors of Windows write the one, and YAML 1.1 knows the other."""
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GPT.encode())
    assert load(path, ENVIRON).settings.apis == {"gpt-4o": "openai"}


@pytest.mark.parametrize("section", ["litellm_settings", "router_settings", "general_settings", "gateway_settings"])
def test_empty_sections_are_none(tmp_path, section):
    """As they remain when all their lines are comments."""
    assert loaded(tmp_path, f"{GPT}\n{section}:\n").notes == ()


def test_the_environment_of_the_process_is_the_default(tmp_path, monkeypatch):
    """As the command has it."""
    monkeypatch.setenv("OPENAI_API_KEY", "of-the-process")
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "c.yaml").write_text(GPT)
    assert load(str(tmp_path / "c.yaml")).settings.providers[0].client.api_key == "of-the-process"


def test_secrets_are_in_no_repr(tmp_path):
    """Neither keys, nor their hashes, nor headers."""
    text = WHOLE.replace('"a,b"', "os.environ/AZURE_API_KEY")
    said = repr(loaded(tmp_path, text))
    for secret in (*ENVIRON.values(), hashed(MASTER)):
        assert secret not in said

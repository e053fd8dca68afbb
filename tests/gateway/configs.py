"""Files for the gateway, as people who come from LiteLLM have them."""

import textwrap

from redis_router.gateway.config import load

SECRET = "sk-proj-Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MA"
MASTER = "sk-master-0123456789abcdef"
ENVIRON = {
    "OPENAI_API_KEY": SECRET,
    "ANTHROPIC_API_KEY": "sk-ant-of-the-tests",
    "AZURE_API_KEY": "azure-key-of-the-tests",
    "LITELLM_MASTER_KEY": MASTER,
}
GPT = """\
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: openai/gpt-4o
"""
"""The smallest file that can be used."""


def loaded(tmp_path, text, environ=ENVIRON):
    """What the gateway reads in a file with this text."""
    path = tmp_path / "config.yaml"
    path.write_text(textwrap.dedent(text).lstrip("\n"))
    return load(path, environ)


def entry(params, model_name="gpt-4o", **more):
    """A file with one entry, by its parameters as lines of YAML."""
    lines = [f"  - model_name: {model_name}", "    litellm_params:", *(f"      {line}" for line in params.splitlines())]
    lines += [f"    {key}: {value}" for key, value in more.items()]
    return "\n".join(["model_list:", *lines, ""])


def upstream(found):
    """Of its only provider."""
    (provider,) = found.settings.providers
    return provider.client

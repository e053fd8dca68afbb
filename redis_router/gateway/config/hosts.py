"""The prefixes of models that LiteLLM has, as far as requests need no translation: where they lead, and whose key."""

from dataclasses import dataclass

from redis_router.gateway.settings import ANTHROPIC, OPENAI


@dataclass(frozen=True, slots=True)
class Host:
    """What a prefix stands for.

    base       the base URL; None where each entry has its own, `api_base`
    keys       variables of the environment that may hold its key, the first that is set counts
    api        OPENAI or ANTHROPIC
    needs_key  is there none without a key, whatever `api_base` is? None: only where `base` is used
    bases      variables in which LiteLLM looks for a base URL; here it stands in the file
    """

    base: str | None
    keys: tuple[str, ...] = ()
    api: str = OPENAI
    needs_key: bool | None = None
    bases: tuple[str, ...] = ()


def _own(prefix: str, base: str, *more: str) -> tuple[str, Host]:
    """A provider with variables that are called as it is."""
    name = prefix.upper()
    return prefix, Host(base, (f"{name}_API_KEY", *more), bases=(f"{name}_API_BASE",))


_TOGETHER = ("TOGETHER_API_KEY", "TOGETHER_AI_API_KEY", "TOGETHERAI_API_KEY", "TOGETHER_AI_TOKEN")
_FIREWORKS = ("FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY", "FIREWORKSAI_API_KEY", "FIREWORKS_AI_TOKEN")
_OPENAI = Host("https://api.openai.com/v1", ("OPENAI_API_KEY",), bases=("OPENAI_BASE_URL", "OPENAI_API_BASE"))

HOSTS: dict[str, Host] = {
    "openai": _OPENAI,
    "text-completion-openai": _OPENAI,
    "azure": Host(None, ("AZURE_OPENAI_API_KEY", "AZURE_API_KEY"), needs_key=True, bases=("AZURE_API_BASE",)),
    "anthropic": Host(
        "https://api.anthropic.com",
        ("ANTHROPIC_API_KEY",),
        ANTHROPIC,
        bases=("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL"),
    ),
    "custom_openai": Host(None, needs_key=False),
    "hosted_vllm": Host(None, ("HOSTED_VLLM_API_KEY",), needs_key=False, bases=("HOSTED_VLLM_API_BASE",)),
    "litellm_proxy": Host(None, ("LITELLM_PROXY_API_KEY",), needs_key=False, bases=("LITELLM_PROXY_API_BASE",)),
    "lm_studio": Host(None, ("LM_STUDIO_API_KEY",), needs_key=False, bases=("LM_STUDIO_API_BASE",)),
    "llamafile": Host(
        "http://127.0.0.1:8080/v1", ("LLAMAFILE_API_KEY",), needs_key=False, bases=("LLAMAFILE_API_BASE",)
    ),
    **dict(
        (
            _own("baseten", "https://inference.baseten.co/v1"),
            _own("cerebras", "https://api.cerebras.ai/v1"),
            _own("codestral", "https://codestral.mistral.ai/v1"),
            _own("deepinfra", "https://api.deepinfra.com/v1/openai"),
            _own("deepseek", "https://api.deepseek.com/beta"),
            _own("featherless_ai", "https://api.featherless.ai/v1", "FEATHERLESS_API_KEY"),
            _own("groq", "https://api.groq.com/openai/v1"),
            _own("hyperbolic", "https://api.hyperbolic.xyz/v1"),
            _own("minimax", "https://api.minimax.io/v1"),
            _own("mistral", "https://api.mistral.ai/v1"),
            _own("moonshot", "https://api.moonshot.ai/v1"),
            _own("nebius", "https://api.studio.nebius.ai/v1"),
            _own("novita", "https://api.novita.ai/v3/openai"),
            _own("nscale", "https://inference.api.nscale.com/v1"),
            _own("nvidia_nim", "https://integrate.api.nvidia.com/v1"),
            _own("openrouter", "https://openrouter.ai/api/v1", "OR_API_KEY"),
            _own("sambanova", "https://api.sambanova.ai/v1"),
            _own("v0", "https://api.v0.dev/v1"),
            _own("vercel_ai_gateway", "https://ai-gateway.vercel.sh/v1", "VERCEL_OIDC_TOKEN"),
            _own("volcengine", "https://ark.cn-beijing.volces.com/api/v3"),
            _own("wandb", "https://api.inference.wandb.ai/v1"),
            _own("xai", "https://api.x.ai/v1"),
            _own("zai", "https://api.z.ai/api/paas/v4"),
        )
    ),
    "fireworks_ai": Host("https://api.fireworks.ai/inference/v1", _FIREWORKS, bases=("FIREWORKS_API_BASE",)),
    "friendliai": Host(
        "https://api.friendli.ai/serverless/v1", ("FRIENDLIAI_API_KEY", "FRIENDLI_TOKEN"), bases=("FRIENDLI_API_BASE",)
    ),
    "lambda_ai": Host("https://api.lambda.ai/v1", ("LAMBDA_API_KEY",), bases=("LAMBDA_API_BASE",)),
    "meta_llama": Host("https://api.llama.com/compat/v1", ("LLAMA_API_KEY",), bases=("LLAMA_API_BASE",)),
    "perplexity": Host(
        "https://api.perplexity.ai", ("PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY"), bases=("PERPLEXITY_API_BASE",)
    ),
    "together_ai": Host("https://api.together.ai/v1", _TOGETHER, bases=("TOGETHER_AI_API_BASE",)),
}

_OWN_API = "speaks an API of its own, and nothing is translated here: take the entry out"
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        (
            "bedrock",
            "cloudflare",
            "cohere",
            "cohere_chat",
            "databricks",
            "gemini",
            "huggingface",
            "oci",
            "palm",
            "predibase",
            "replicate",
            "sagemaker",
            "sagemaker_chat",
            "snowflake",
            "triton",
            "vertex_ai",
            "vertex_ai_beta",
            "watsonx",
        ),
        f"{_OWN_API}, or ask its OpenAI-compatible endpoint, if it has one: model: openai/… with api_base",
    ),
    "anthropic_text": f"{_OWN_API}, or write anthropic/…",
    "azure_ai": "has several APIs: write model: openai/… with api_base: https://….services.ai.azure.com/openai/v1",
    "azure_text": "write azure/…: /v1/completions is passed on as well",
    "ollama": "write model: openai/… with api_base: http://localhost:11434/v1, Ollama's endpoint in OpenAI's API",
    "ollama_chat": "write model: openai/… with api_base: http://localhost:11434/v1, Ollama's endpoint in OpenAI's API",
    "openai_like": "write openai/… with api_base",
    "vllm": "runs within LiteLLM's process: write hosted_vllm/… with the server's api_base",
}
"""Prefixes of LiteLLM that are not served, with what to do."""

"""LiteLLM's keys that are read here, those that have no effect, and those that are refused; each with what to do."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from redis_router.gateway.config.findings import Part, closest
from redis_router.gateway.config.reading import Reading

MODEL_LIST, LITELLM, ROUTER, GENERAL, OURS = (
    "model_list",
    "litellm_settings",
    "router_settings",
    "general_settings",
    "gateway_settings",
)
PARAMS, INFO = "litellm_params", "model_info"
OUR_KEYS = frozenset(
    (
        "keys",
        "allow_anyone",
        "deadline",
        "longest_deadline",
        "first_token_timeout",
        "max_attempts",
        "forward_headers",
        "max_body_mb",
        "strategy",
    )
)
"""Of `gateway_settings`."""


@dataclass(frozen=True, slots=True)
class Known:
    """The keys of one mapping of LiteLLM's.

    used     are read
    noted    have no effect: what to do, by a pattern of keys
    refused  would mislead if they were passed over: what to do
    rest     what to do about any other
    """

    used: frozenset[str]
    noted: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    rest: str = "it is not known here; take it out"


_CREDENTIALS = "is no way to log in here: give api_key, such as os.environ/AZURE_API_KEY"
_WITH_SENSE_IN_LITELLM = "it is LiteLLM's own; take it out, or leave it for LiteLLM"
_COUNTED = "nothing is counted against it; what providers say about their rate limits is obeyed. Take it out"
_COSTS = "costs and budgets are not counted; take it out"
_CIRCUIT = "circuits decide whom to call: `redis-router config` sets their thresholds"
_TRIES = "give gateway_settings.max_attempts: a request is tried at each provider once"
_TIME = "times are for all providers: give gateway_settings.deadline and first_token_timeout"
_REDIS = "Redis is not configured in this file: give --redis"
_UNCHANGED = "requests are passed on as they are; take it out"
_NO_FALLBACK = "give fallbacks, by the name of each model"
_NO_DATABASE = "there is no database; take it out"

KNOWN: dict[str, Known] = {
    PARAMS: Known(
        frozenset(
            ("model", "api_base", "api_key", "api_version", "organization", "extra_headers", "weight"),
        ),
        {
            r"[rti]pm|otpm|[rt]pd|daily_reset_time|max_parallel_requests|default_api_key_.*": _COUNTED,
            r"timeout|stream_timeout|timeout_by_.*|stream_timeout_by_.*": _TIME,
            r"max_retries|num_retries": _TRIES,
            r".*cost.*|.*pric.*|max_budget|budget_duration": _COSTS,
            r"cooldown_time|allowed_fails": _CIRCUIT,
            r"drop_params|additional_drop_params|allowed_openai_params|modify_params": _UNCHANGED,
            r"order": "providers have no order; give one that is asked last a model_name of its own, in fallbacks",
            r"tags|tag_regex": "requests choose no provider by tag; give a model_name of its own",
            r"ssl_verify": "certificates are always verified; SSL_CERT_FILE names those of your own authority",
            r"(aws|vertex|s3|gcs|watsonx)_.*|region_name": "no cloud's own API is spoken here; take it out",
        },
        {
            **dict.fromkeys(
                (
                    "azure_ad_token",
                    "tenant_id",
                    "client_id",
                    "client_secret",
                    "azure_username",
                    "azure_password",
                    "litellm_credential_name",
                ),
                _CREDENTIALS,
            ),
            "base_url": "write api_base",
            "headers": "write extra_headers",
            "custom_llm_provider": "write it in front of the model: model: groq/llama-3.3-70b",
            "mock_response": "nothing answers in a provider's place here: take it out",
        },
        "it is not sent; clients give such values in their requests",
    ),
    INFO: Known(
        frozenset(("id",)),
        refused={"blocked": "an entry here is in use: take the entry out, or give it weight: 0"},
        rest="only the id is read; take it out, or leave it for LiteLLM",
    ),
    LITELLM: Known(
        frozenset(("request_timeout", "num_retries", "fallbacks")),
        {
            r"default_fallbacks|context_window_fallbacks|content_policy_fallbacks|max_fallbacks": _NO_FALLBACK,
            r"drop_params|modify_params": _UNCHANGED,
            r"num_retries_per_request": _TRIES,
            r"allowed_fails|cooldown_time": _CIRCUIT,
            r"cache|cache_params|enable_caching.*|caching": "answers are not cached; take it out",
            r"callbacks|success_callback|failure_callback|service_callback|.*_callbacks?|turn_off_message_logging": (
                "no callbacks are called, and bodies are never logged; /metrics has the figures"
            ),
            r"set_verbose|json_logs|verbose|log_.*": "the gateway has a log of its own; take it out",
            r"max_budget|budget_duration|.*cost.*|.*budget.*": _COSTS,
            r"redis_.*|cache_.*": _REDIS,
        },
        {"guardrails": "no guardrail runs here: take it out once you can do without"},
        _WITH_SENSE_IN_LITELLM,
    ),
    ROUTER: Known(
        frozenset(("timeout", "stream_timeout", "num_retries", "fallbacks")),
        {
            r"default_fallbacks|context_window_fallbacks|content_policy_fallbacks|max_fallbacks": _NO_FALLBACK,
            r"routing_strategy|routing_strategy_args": (
                "give gateway_settings.strategy: adaptive, or weighted for simple-shuffle, latency for"
                " latency-based-routing"
            ),
            r"redis_.*": _REDIS,
            r"cache_.*|caching_groups": "answers are not cached; take it out",
            r"allowed_fails|allowed_fails_policy|cooldown_time|disable_cooldowns": _CIRCUIT,
            r"retry_policy|model_group_retry_policy|max_retries": _TRIES,
            r"retry_after": "another provider is asked at once; take it out",
            r"model_group_alias": "give the entries again, with the alias as model_name",
            r"enable_tag_filtering|tag_.*": "requests choose no provider by tag; give a model_name of its own",
            r"provider_budget_config|.*budget.*": _COSTS,
            r"default_max_parallel_requests|enable_pre_call_checks": _COUNTED,
        },
        rest=_WITH_SENSE_IN_LITELLM,
    ),
    GENERAL: Known(
        frozenset(("master_key",)),
        {
            r"database_.*|store_model_in_db|use_redis_transaction_buffer|proxy_batch_write_at": _NO_DATABASE,
            r"alerting.*|alert_.*": "a worker's webhook tells of transitions; take it out",
            r"max_parallel_requests|global_max_parallel_requests": _COUNTED,
            r"max_request_size_mb": "give gateway_settings.max_body_mb",
            r"(background_)?health_check.*|.*health_check.*": "a worker probes providers; take it out",
            r"disable_spend_logs|.*spend.*|.*budget.*": _COSTS,
            r"pass_through_endpoints": "only the routes of the models are served; take it out",
            r"forward_client_headers_to_llm_api": "give gateway_settings.forward_headers",
        },
        {
            **dict.fromkeys(
                ("custom_auth", "enable_jwt_auth", "litellm_jwtauth", "enable_oauth2_auth"),
                "is no way to log in here: take it out, and give gateway_settings.keys",
            ),
            "allowed_ips": "addresses are not checked here: take it out, and let your network do it",
        },
        _WITH_SENSE_IN_LITELLM,
    ),
}

TOP = Known(
    frozenset((MODEL_LIST, LITELLM, ROUTER, GENERAL, OURS)),
    {
        r"environment_variables": "it is not read: set them in the environment of the gateway",
        r"callback_settings|mcp_servers|mcp_aliases|files_settings|finetune_settings|batch_settings|assistant_settings"
        r"|vector_store_registry|search_tools|sandbox_tools|prompts|agent_list|mcp_tools|worker_registry|plugins"
        r"|classifier_plugin|pass_through_endpoints|default_vertex_config": _WITH_SENSE_IN_LITELLM,
    },
    {
        **dict.fromkeys(
            ("guardrails", "policies", "policy_attachments"),
            "no guardrail runs here: take it out once you can do without",
        ),
        "include": "one file is read: put its content here",
        "credential_list": "is not read: give each entry its api_key, such as os.environ/OPENAI_API_KEY",
    },
)


def used(part: Part, section: str, reading: Reading) -> dict[str, Part]:
    """The keys of a mapping of LiteLLM's that are read. Others are noted or refused."""
    known = KNOWN[section]
    found = reading.mapping(part)
    for key, each in found.items():
        if key not in known.used:
            _pass_over(each, key, known, reading)
    return {key: each for key, each in found.items() if key in known.used and each.value is not None}


def top(part: Part, reading: Reading) -> dict[str, Part]:
    """The sections of the file. An unknown one is refused: whoever reads it wrote it for somebody else."""
    found = reading.mapping(part)
    for key, each in found.items():
        if key in TOP.used:
            continue
        if key in TOP.refused or _noted(key, TOP):
            _pass_over(each, key, TOP, reading)
        else:
            reading.unknown(each, key, TOP.used)
    return {key: each for key, each in found.items() if key in TOP.used}


def _pass_over(part: Part, key: str, known: Known, reading: Reading) -> None:
    if key in known.refused:
        reading.findings.refuse(part, known.refused[key])
        return
    if (words := _noted(key, known)) is not None:
        reading.findings.note(part, f"has no effect: {words}.")
        return
    homes = {OURS: OUR_KEYS, **{name: each.used for name, each in KNOWN.items() if name != INFO}}
    home = next((name for name, keys in homes.items() if key in keys), None)
    if (meant := closest(key, known.used)) is not None:
        reading.findings.refuse(part, f"unknown key: did you mean {meant}?")
    elif home is not None:
        reading.findings.refuse(part, f"is not read here: it belongs into {home}")
    else:
        reading.findings.note(part, f"has no effect: {known.rest}.")


def _noted(key: str, known: Known) -> str | None:
    return next((words for pattern, words in known.noted.items() if re.fullmatch(pattern, key)), None)

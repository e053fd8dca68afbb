"""The callback: which of LiteLLM's hooks does what.

    async_filter_deployments                 leaves out who may not be called, and takes the permit of a trial call
    async_pre_call_deployment_hook           a call begins
    async_post_call_success_deployment_hook  it was answered; not for streams
    async_post_call_failure_deployment_hook  it failed, a stream before its first part
    async_log_success_event                  a stream reached its end, or the answer came from LiteLLM's cache
    async_log_failure_event                  a stream broke

Several of them may tell of one call: the first one counts. What goes wrong in here is logged and never fails a request.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

from redis_router import Attempt, NoProviderAvailable, Provider, Router, RouterError
from redis_router.integrations.litellm.calls import Calls
from redis_router.integrations.litellm.refusals import NobodyAvailable
from redis_router.integrations.litellm.said import CallFacts, Deployment, between_ms, first_token_ms
from redis_router.runtime.log import log

SECONDS_BETWEEN_TRACEBACKS = 10.0


class FleetBreaker(CustomLogger):
    """The fleet's breaker for LiteLLM: `litellm.callbacks = [FleetBreaker("redis://localhost:6379/0")]`.

    redis    what `redis_router.Router` takes, or a Router of your own
    chooses  the fleet's strategy chooses the deployment; else LiteLLM's `routing_strategy` does, among those that may
             be called
    worker   check health and let circuits recover from here, too, in one election with all others; False where
             `redis-router worker` runs
    options  those of `redis_router.Router`

    Each deployment is a provider, named by the `id` of its `model_info`: it is registered when it is seen first, or by
    `register`. Starts the router: raises RedisRefused for a wrong password; without Redis each process decides alone.
    """

    def __init__(self, redis: Any, *, chooses: bool = False, worker: bool = True, **options: Any) -> None:
        super().__init__()
        self.router: Router[None] = redis if isinstance(redis, Router) else Router(redis, **options)
        self._chooses = chooses
        self._groups: dict[str, str] = {}
        self._unusable: set[str] = set()
        self._calls = Calls()
        self._said: set[str] = set()
        self._traceback_at = 0.0
        self.router.start()
        if worker:
            self.router.start_health_checker()

    @property
    def calls_under_way(self) -> int:
        """Calls of this process that began and whose end is not known yet."""
        return len(self._calls)

    # Deployments

    def register(self, model_list: Sequence[Mapping[str, Any]]) -> None:
        """Register deployments before their first request: a Router's `model_list`, or parts of it."""
        for each in model_list:
            self._register(Deployment.of(each))

    def _register(self, deployment: Deployment) -> None:
        name, group = deployment.name, deployment.group
        if not name or not group or self._groups.get(name) == group or name in self._unusable:
            return
        if deployment.has_default_id and self._is_new(name):
            log.warning(
                "a deployment of %s has no model_info.id, and LiteLLM made one of its parameters, %s: give it an id, or"
                " replicas whose keys differ do not share its circuit",
                group,
                name,
            )
        try:
            self.router.register_provider(Provider(name, models=(group,)))
            self._groups[name] = group
        except RouterError as error:
            self._unusable.add(name)
            log.warning("a deployment of %s is left to LiteLLM alone: %s", group, error)

    # Before a call

    async def async_filter_deployments(
        self,
        model: str,
        healthy_deployments: list[Any],
        messages: Any,
        request_kwargs: dict[str, Any] | None = None,
        parent_otel_span: Any = None,
    ) -> list[Any]:
        """Raises NobodyAvailable."""
        with self._safely("choosing deployments"):
            self._calls.tidy()
            self.register(healthy_deployments)
            return self._may_be_called(model, healthy_deployments, CallFacts.of(request_kwargs).request)
        return healthy_deployments

    def _may_be_called(self, model: str, deployments: list[Any], request: str) -> list[Any]:
        names = [Deployment.of(each).name for each in deployments]
        free = {name for name in names if name not in self._groups}
        offered = [name for name in names if name in self._groups]
        refused: list[NoProviderAvailable] = []
        for group in dict.fromkeys(self._groups[name] for name in offered):
            try:
                found = self._look(group, {name for name in offered if self._groups[name] == group}, request)
            except NoProviderAvailable as error:
                refused.append(error)
                continue
            if isinstance(found, Attempt):
                self._calls.keep(found)
                free = {found.provider.name}
                break
            free |= found
        if refused and not free:
            raise NobodyAvailable.because(model, NoProviderAvailable.merged(refused))
        return [each for each, name in zip(deployments, names, strict=True) if name in free]

    def _look(self, group: str, offered: set[str], request: str) -> Attempt[None] | set[str]:
        """One of these to be called with this attempt, or those of them that may be called. Raises NoProviderAvailable.

        A request's further tries go to those that did not fail for it, where there are such.
        """
        tried = self._calls.tried(request) & offered
        others = self._groups.keys() - offered
        if self._chooses:
            try:
                return self.router.attempt(group, exclude=others | tried)
            except NoProviderAvailable:
                return self.router.attempt(group, exclude=others)
        may_be = {provider.name for provider in self.router.available_providers(group)} & offered
        if may_be != offered:
            try:
                return self.router.attempt(group, exclude=others | may_be)  # a trial call, where there is a permit
            except NoProviderAvailable:
                if not may_be:
                    raise
        return may_be - tried or may_be

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> None:
        with self._safely("the beginning of a call"):
            facts = CallFacts.of(kwargs)
            group = self._groups.get(facts.deployment)
            if group is None or not facts.call or self._calls.is_under_way(facts.call):
                return  # the hook runs twice where LiteLLM answers one API by another
            attempt = self._calls.take(facts.deployment) or self.router.attempt_at(facts.deployment, group)
            self._calls.begin(attempt, facts, kwargs.get("litellm_logging_obj"))

    def pre_call_check(self, deployment: dict[str, Any]) -> None:
        """LiteLLM asks it only on the way of `completion()` without await, which has none of the other hooks."""
        if self._is_new("completion"):
            log.warning("completion() of LiteLLM's Router passes the fleet's breaker by: use await acompletion()")

    # After it

    async def async_post_call_success_deployment_hook(
        self, request_data: dict[str, Any], response: Any, call_type: Any
    ) -> None:
        with self._safely("an answer"):
            facts = CallFacts.of(request_data)
            if not facts.streams:
                self._calls.succeeded(facts.call, response)

    async def async_post_call_failure_deployment_hook(
        self, request_data: Mapping[str, Any], exception: Exception, call_type: Any, fallback_depth: int | None = None
    ) -> None:
        with self._safely("a failure"):
            self._calls.failed(CallFacts.of(request_data).call, exception)

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        with self._safely("an end"):
            call = CallFacts.of(kwargs).call
            if kwargs.get("cache_hit") is True:
                self._calls.vanished(call)
            else:
                took = first_token_ms(kwargs, start_time)
                took = between_ms(start_time, end_time) if took is None else took
                self._calls.succeeded(call, response_obj, took)

    async def async_log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        with self._safely("a broken stream"):
            begun = first_token_ms(kwargs, start_time)
            self._calls.failed(CallFacts.of(kwargs).call, kwargs.get("exception"), begun)

    # What goes wrong in here

    @contextmanager
    def _safely(self, what: str) -> Iterator[None]:
        try:
            yield
        except NobodyAvailable:
            raise
        except Exception:
            now = time.monotonic()
            if now >= self._traceback_at:  # a traceback for each request would cost more than what it tells
                self._traceback_at = now + SECONDS_BETWEEN_TRACEBACKS
                log.exception("%s: the fleet's breaker failed, and LiteLLM goes on without it", what)

    def _is_new(self, what: str) -> bool:
        """Is this the first time?"""
        was_said = what in self._said
        self._said.add(what)
        return not was_said

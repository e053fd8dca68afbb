"""The router whose attempts are traced."""

from collections.abc import Callable, Collection
from typing import Any, TypeVar, cast

from opentelemetry.trace import TracerProvider

from redis_router import Attempt, Attempts, InvalidArgument, NoProviderAvailable, Router, Transition
from redis_router.integrations.opentelemetry.attempts import Request, TracedAttempt, TracedAttempts
from redis_router.integrations.opentelemetry.spans import Spans

ClientT = TypeVar("ClientT")


class TracedRouter(Router[ClientT]):
    """A Router whose attempts have spans, also those below a transport; everything else is the Router's own.

    redis, options   as those of `Router`
    tracer_provider  where the spans go; None for OpenTelemetry's global one
    propagate        names of the providers that get a `traceparent` header, by `attempt.headers` and below the
                     transports; True for all. By default none: trace ids of yours are no business of others

    What `select_provider` and `record_result` do has no spans. Raises InvalidArgument.
    """

    def __init__(
        self,
        redis: Any,
        *,
        tracer_provider: TracerProvider | None = None,
        propagate: Collection[str] | bool = (),
        on_transition: Callable[[Transition], None] | None = None,
        **options: Any,
    ) -> None:
        if on_transition is not None and not callable(on_transition):
            raise InvalidArgument(f"on_transition is {on_transition!r}: give a function that takes a Transition")
        self._spans = Spans(tracer_provider, propagate, on_transition)
        super().__init__(redis, on_transition=self._spans.changed, **options)

    def attempt(self, model: str, *, exclude: Collection[str] = ()) -> Attempt[ClientT]:
        """As `Router.attempt`, with a span of its own; where nobody is available, a request's span says why.

        A refusal with `exclude` has none: the loop that excludes knows what it tried.
        """
        try:
            made = super().attempt(model, exclude=exclude)
        except NoProviderAvailable as error:
            if not exclude:
                Request(self._spans, model).left(error)
            raise
        return cast(Attempt[ClientT], TracedAttempt(made, self._spans))

    def attempt_at(self, name: str, model: str) -> Attempt[ClientT]:
        """As `Router.attempt_at`, with a span of its own."""
        return cast(Attempt[ClientT], TracedAttempt(super().attempt_at(name, model), self._spans))

    def attempts(self, model: str, **options: Any) -> Attempts[ClientT]:
        """As `Router.attempts`: one span for the loop, and one below it for each attempt."""
        return cast(Attempts[ClientT], TracedAttempts(super().attempts(model, **options), self._spans, model))

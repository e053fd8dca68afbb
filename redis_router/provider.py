"""A place to send requests to, as a gateway registers it."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic

from redis_router.checks import (
    NO_PROBE,
    check_flag,
    check_model,
    check_name,
    check_part,
    check_probe_url,
    check_weight,
)
from redis_router.errors import InvalidArgument
from redis_router.probe import Probe

if TYPE_CHECKING:  # a default for a type variable: typing has it from Python 3.13 on
    from typing_extensions import TypeVar

    ClientT = TypeVar("ClientT", default=Any)
else:
    from typing import TypeVar

    ClientT = TypeVar("ClientT")

ANY_MODEL = "*"
"""In `Provider.models`: this provider serves every model."""


@dataclass(frozen=True)  # no slots: `Provider[Client](…)` sets an attribute of typing's own
class Provider(Generic[ClientT]):
    """One place to send requests to.

    name    the key of its shared record: the same string in every replica
    models  the models it serves; "*" serves any
    weight  its share under the weighted strategies, relative to the others, from 0.000001 to 1,000,000; 0: drained, it
            gets no calls
    client  anything the gateway wants back from `select_provider` (an SDK client, a base URL); never leaves the process
            (make SDK clients without retries of their own: openai and anthropic with `max_retries=0`)
    probe   what a worker checks: an http(s):// URL that answers below 400, tcp://host:port that accepts connections, or
            a `Probe` with headers, a method or a status of its own; shared by the fleet: None leaves what another
            replica gave, "none" takes it away
    circuit_per_model  a circuit, and a record `name/model`, for each model, where they fail apart from each other
    """

    name: str
    models: Collection[str]
    weight: float = 1.0
    client: ClientT = field(default=None, compare=False, repr=False)  # type: ignore[assignment]
    probe: str | Probe | None = None
    circuit_per_model: bool = False
    _whole: "Provider[ClientT] | None" = field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_name("provider name", self.name)
        check_flag("circuit_per_model", self.circuit_per_model)
        if isinstance(self.models, str | bytes) or not hasattr(self.models, "__iter__"):
            raise InvalidArgument(
                f"models of provider {self.name!r} is {self.models!r}: give a tuple of names, such as ('gpt-4o',)"
            )
        object.__setattr__(self, "models", tuple(dict.fromkeys(check_model(model) for model in self.models)))
        if not self.models:
            raise InvalidArgument(f"provider {self.name!r} serves no model: name at least one, or '*' for every model")
        object.__setattr__(self, "weight", check_weight(self.weight))
        if self.probe not in (None, NO_PROBE) and not isinstance(self.probe, Probe):
            check_probe_url(f"probe of provider {self.name!r}", self.probe)
        if self.circuit_per_model:
            for model in self.models:
                check_part(self.name, model)

    def parts(self) -> tuple["Provider[ClientT]", ...]:
        """What has a record of its own: this provider, or one part for each model, named `name/model`."""
        if not self.circuit_per_model:
            return (self,)
        return tuple(self._part(model) for model in self.models)

    def _part(self, model: str) -> "Provider[ClientT]":
        part = replace(self, name=f"{self.name}/{model}", models=(model,), circuit_per_model=False)
        object.__setattr__(part, "_whole", self)
        return part

    @property
    def whole(self) -> "Provider[ClientT]":
        """The provider as the gateway registered it, where this is its part for one model; else itself."""
        return self._whole or self


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model the router can serve; `owned_by` is the first provider, by name, that serves it."""

    id: str
    owned_by: str

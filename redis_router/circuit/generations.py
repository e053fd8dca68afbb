"""Generations count a circuit's transitions: by them a late result moves no circuit. A replica's own are apart."""

from dataclasses import replace

from redis_router.circuit.record import ProviderHealth

LOCAL_GENERATIONS = 1 << 50
"""Added at the first transition that a replica makes by itself: the fleet's own count transitions from 1."""
NO_GENERATION = 0
"""A circuit's generations begin at 1: a result that carries this one moves the averages, and no circuit."""


def is_local(generation: int) -> bool:
    """Is it of a state that a replica brought a circuit into by itself? Then it moves no circuit of the fleet's."""
    return generation >= LOCAL_GENERATIONS


def fleet_generation(generation: int) -> int:
    """As it would be counted without an outage: what people are shown."""
    return generation % LOCAL_GENERATIONS


def as_the_fleet_counts(health: ProviderHealth) -> ProviderHealth:
    """The record with its generation as it would be counted without an outage: what people are shown."""
    return replace(health, generation=fleet_generation(health.generation)) if is_local(health.generation) else health


def made_alone(health: ProviderHealth) -> ProviderHealth:
    """The record after a transition that a replica made by itself, marked as such."""
    if is_local(health.generation):
        return health
    return replace(health, generation=health.generation + LOCAL_GENERATIONS)

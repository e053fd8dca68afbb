"""The gateway's file: read, checked as a whole, and turned into Settings.

    findings.py   what is wrong, and what has no effect; what of a value may be shown
    document.py   YAML as a tree of parts, each with its line
    reading.py    values as what they should be, out of the environment where they say so
    known.py      LiteLLM's keys: read, without effect, refused
    hosts.py      the prefixes of models
    headers.py    names of headers
    entries.py    an entry of model_list
    providers.py  model_list as providers
    sections.py   the settings beside it

Imports go up this list.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from redis_router.gateway.config.document import read
from redis_router.gateway.config.findings import BadConfig, Findings
from redis_router.gateway.config.reading import Reading
from redis_router.gateway.config.sections import settings_of
from redis_router.gateway.settings import Settings

__all__ = ["BadConfig", "Loaded", "load"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file that can be used. `notes` say what of it has no effect here, a sentence each, with its line."""

    settings: Settings
    notes: tuple[str, ...]


def load(path: str | Path, environ: Mapping[str, str] = os.environ) -> Loaded:
    """Read the file at `path`. Raises BadConfig, and nothing else, with all that is wrong with it."""
    findings = Findings(str(path))
    settings = settings_of(read(path, findings), Reading(findings, environ))
    if settings is None:
        raise findings.error
    return Loaded(settings, findings.notes)

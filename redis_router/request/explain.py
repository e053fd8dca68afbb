"""What people read of a request that went from provider to provider: notes on its error."""

from collections.abc import Sequence
from contextlib import suppress

from redis_router.errors import NoProviderAvailable

_MOST_CHARS = 300
_OURS = "redis_router:"


def text_of(error: BaseException) -> str:
    """Its kind and words, cut short."""
    try:
        return f"{type(error).__name__}: {error}"[:_MOST_CHARS]
    except Exception:  # its __str__ fails
        return type(error).__name__


def add_notes(error: BaseException | None, earlier: Sequence[str], missing: NoProviderAvailable | None) -> None:
    """Attach to the error what failed before it, and why nothing follows, where it takes notes."""
    if error is None:
        return
    with suppress(Exception):  # frozen, slotted, or with a __getattr__ that raises: the caller sees it all the same
        for note in [note for note in getattr(error, "__notes__", ()) if str(note).startswith(_OURS)]:
            error.__notes__.remove(note)  # an exception that is raised again and again
        for number, text in enumerate(earlier, 1):
            error.add_note(f"{_OURS} attempt {number} failed before, with {text}")
        if missing is not None and missing.reasons:
            error.add_note(f"{_OURS} {missing}")

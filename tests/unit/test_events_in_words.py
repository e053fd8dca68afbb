"""What `redis-router events` and `watch` say of an entry of a log."""

import time

import pytest

from redis_router.circuit.overrides import FOR_EVER_MS
from redis_router.cli.events import change

UNTIL_MS = 1_795_712_400_000
UNTIL = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(UNTIL_MS / 1000))


@pytest.mark.parametrize(
    ("event", "details", "words"),
    [
        ("transition", {"from": "closed", "to": "open", "reason": "http"}, "circuit closed -> open (http)"),
        ("override", {"to": "drain", "until_ms": str(UNTIL_MS), "reason": "slow"}, f"drain until {UNTIL} (slow)"),
        ("override", {"from": "drain", "to": "observe", "until_ms": str(FOR_EVER_MS)}, "observe for ever, was drain"),
        ("override", {"from": "drain", "to": "", "until_ms": "0", "reason": "expired"}, "drain ended (expired)"),
        ("weight_override", {"from": "1", "to": "0.2", "until_ms": str(UNTIL_MS)}, f"weight 1 -> 0.2 until {UNTIL}"),
        ("weight_override", {"from": "0.2", "to": "1", "until_ms": "0"}, "weight 0.2 -> 1"),
        ("cooling", {"detail": "20000 ms"}, "rate limited for 20 s"),
        ("updated", {"detail": "available 1>0 unavailable_reason >probe"}, "out of service, probe"),
        (
            "updated",
            {"detail": "available 0>1 unavailable_reason operator>", "reason": "mended"},
            "back in service (mended)",
        ),
        ("updated", {"detail": "cooldown_until_ms 1795751304095>0"}, "rate limit ended"),
        ("updated", {"detail": "weight 2>0.5 window_ms 0>1"}, "weight 2 -> 0.5, window_ms 0 -> 1"),
        ("updated", {"detail": "who knows"}, "updated who knows"),
        ("registered", {"detail": "closed generation 1"}, "registered closed generation 1"),
        ("reset", {"from": "open", "to": "closed", "reason": "moved"}, "reset open -> closed (moved)"),
        ("of a later version", {"colour": "red"}, "of a later version colour=red"),
    ],
)
def test_each_in_words(event, details, words):
    """Who did it stands at the end."""
    assert change(event, "alice", details) == f"{words}  by alice"

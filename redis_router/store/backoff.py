"""How long to wait before Redis is asked again."""

from typing import Any

from tenacity import RetryCallState, wait_random_exponential

_WAITS = wait_random_exponential(multiplier=0.1, max=2.0)


def backoff(failures: int) -> float:
    """Seconds after so many failures in a row: full jitter, from 0.1 s up to 2 s; 0 after none."""
    if failures == 0:
        return 0.0
    nothing: Any = None
    state = RetryCallState(nothing, None, (), {})
    state.attempt_number = failures
    return _WAITS(state)

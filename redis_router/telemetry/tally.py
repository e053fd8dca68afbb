"""A counter that takes no lock."""

from itertools import count


class Tally:
    """Counts from a signal handler, too, which may interrupt whoever counts."""

    def __init__(self) -> None:
        self._numbers = count()
        self._looks = 0

    def add(self) -> None:
        """One more."""
        next(self._numbers)

    def total(self) -> int:
        """So many until now; only one thread at a time may ask."""
        self._looks += 1
        return next(self._numbers) - self._looks + 1

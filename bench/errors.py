"""What ends a run of the bench with a sentence instead of a traceback."""

from __future__ import annotations


class BenchError(RuntimeError):
    """A measurement that cannot be made, or that would not be worth its name; the message says what to do."""

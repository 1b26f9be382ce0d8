"""Writes docs/reliability.md from what the runs came to."""

from __future__ import annotations


def write_document() -> None:
    """Placeholder until the next step."""

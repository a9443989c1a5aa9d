"""Versions as people write them, in an order."""

import re

_PARTS = re.compile(r"[0-9]+|[A-Za-z]+")


def version_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """What versions are sorted by: numbers as numbers, part by part; a part that is missing comes before a number and after a
    word, so that 2.0-rc1 < 2.0 < 2.0.1."""
    parts = [(1, int(part), "") if part.isdigit() else (-1, 0, part) for part in _PARTS.findall(text)]
    return (*parts, (0, 0, ""))

"""What a box prints, made safe to look at: bounded lines of text without control characters.

A box may print anything: binary noise, escape sequences, a line without an end. Patterns are only ever applied to one line of at
most `LINE` characters, so that no pattern can be made to think for long about a long text.
"""

import re
from collections.abc import Sequence

LINE = 512
LINES = 20_000
SHOWN = 160
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]{0,32}[ -/]{0,4}[@-~]|\][^\x07\x1b]{0,256}(?:\x07|\x1b\\)|[@-Z\\^_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_BREAKS = re.compile(r"\r*\n")


def lines_of(data: bytes) -> tuple[str, ...]:
    """The lines of a box's output, each at most `LINE` characters of text, at most `LINES` of them. What a carriage return
    painted over is gone; what is no text is U+FFFD."""
    text = _ESCAPES.sub("", data.decode("utf-8", "replace"))
    lines = _BREAKS.split(text, maxsplit=LINES)[:LINES]
    return tuple(_CONTROL.sub("\ufffd", line.rstrip("\r").rpartition("\r")[2])[:LINE].rstrip() for line in lines)


def find(lines: Sequence[str], pattern: re.Pattern[str]) -> str | None:
    """What the first group of the pattern took out of the first line that fits."""
    return next(iter(find_all(lines, pattern)), None)


def find_all(lines: Sequence[str], pattern: re.Pattern[str]) -> tuple[str, ...]:
    """The same out of every line."""
    found = (pattern.search(line) for line in lines)
    return tuple(match.group(1)[:256] for match in found if match is not None and match.group(1))


def holds(lines: Sequence[str], pattern: re.Pattern[str]) -> str | None:
    """The first line that the pattern fits."""
    return next((line for line in lines if pattern.search(line)), None)


def shown(lines: Sequence[str]) -> str:
    """The end of an output, for a sentence: short, quoted, in one line."""
    words = " / ".join(line.strip() for line in lines if line.strip())
    if not words:
        return "nothing"
    return repr(words if len(words) <= SHOWN else "…" + words[-SHOWN:])

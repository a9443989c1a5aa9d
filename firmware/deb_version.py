"""The order of Debian versions, as Debian Policy 5.6.12 and dpkg have it. Pure."""

import re

_PARTS = re.compile(r"([^0-9]*)([0-9]*)")
_NOTHING = ((0,), 0)
"""What the end counts as: nothing, and then 0."""
Key = tuple[int, tuple[tuple[tuple[int, ...], int], ...], tuple[tuple[tuple[int, ...], int], ...]]


def version_order(version: str) -> Key:
    """What sorts as the version does. A version without an epoch has 0, without a revision the empty one."""
    epoch, colon, rest = version.partition(":")
    if not (colon and epoch.isdecimal() and epoch.isascii()):
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return int(epoch), _ordered(upstream if dash else rest), _ordered(revision if dash else "")


def _ordered(text: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Letters before all other signs, and `~` before even the end; numbers by value."""
    parts = [(_signs(signs), int(number or 0)) for signs, number in _PARTS.findall(text)]
    while parts and parts[-1] == _NOTHING:
        parts.pop()
    return (*parts, _NOTHING, _NOTHING)


def _signs(text: str) -> tuple[int, ...]:
    return (*(-1 if one == "~" else ord(one) if one.isalpha() else ord(one) + 256 for one in text), 0)

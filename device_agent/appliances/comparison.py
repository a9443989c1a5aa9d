"""What is compared before and after: the running configuration line by line, and sets such as neighbours. Pure."""

from collections import Counter
from collections.abc import Mapping

MOST = 5


def differences(
    before: str, after: str, sets_before: Mapping[str, tuple[str, ...]], sets_after: Mapping[str, tuple[str, ...]]
) -> list[str]:
    """Sentences about what was there before and lacks now, or is in the configuration only now. Empty: all is as it was."""
    said = []
    had, has = Counter(before.splitlines()), Counter(after.splitlines())
    if lost := list((had - has).elements()):
        said.append(f"the running configuration lacks {_some(lost)}")
    if new := list((has - had).elements()):
        said.append(f"the running configuration has {_some(new)} besides")
    for name, were in sets_before.items():
        if gone := sorted(set(were) - set(sets_after.get(name, ()))):
            said.append(f"of {len(were)} {name} {len(gone)} are gone: {_some(gone)}")
    return said


def _some(lines: list[str]) -> str:
    named = ", ".join(repr(line[:80]) for line in lines[:MOST])
    return named if len(lines) <= MOST else f"{named} and {len(lines) - MOST} more"

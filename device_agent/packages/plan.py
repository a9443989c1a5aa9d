"""What is installed, what would change, and whether that is what was signed. Pure: texts in, values out.

A package goes by its *key*: its name, with `:arch` where it is of a foreign architecture, because only those can be there twice.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct

from firmware.errors import RefusedError
from firmware.patch_set import plan_sha256
from firmware.protocol.words import ReasonKind

CHANGE_WORDS = ("Inst", "Remv", "Purg")
INSTALLED_FIELDS = ("Package", "Architecture", "Version", "db:Status-Abbrev", "source:Package", "source:Version")
_CHANGE = re.compile(
    r"(?P<word>Inst|Remv|Purg) (?P<name>[^\s:]+)(?::(?P<foreign>[^\s:]+))?"
    r"(?: \[(?P<before>[^\]\s]+)\])?(?: \((?P<after>\S+)(?P<origins>[^)]*?)\[(?P<arch>[^\]\s]+)\]\))?"
)


@dataclass(frozen=True, kw_only=True)
class Installed:
    """A package that the system knows. `status`: dpkg's three letters (want, status, error); `ii` with a space is a sound one."""

    name: str
    arch: str
    version: str
    status: str = "ii "
    source: str = ""
    source_version: str = ""

    @property
    def is_there(self) -> bool:
        """Whether anything of its program files is on the system."""
        return self.status[1] not in "nc"

    @property
    def is_sound(self) -> bool:
        """Whether it is wholly installed, or wholly gone but for its configuration."""
        return self.status[1] in "inc" and self.status[2] == " "

    @property
    def is_held(self) -> bool:
        return self.status[0] == "h"


class Change(Struct, frozen=True, kw_only=True, order=True):
    """One package's way; `before` or `after` None: not there."""

    name: str
    arch: str
    before: str | None = None
    after: str | None = None

    @property
    def text(self) -> str:
        """`name 1.0 → 2.0`, for people."""
        return f"{self.name}:{self.arch} {self.before or 'absent'} to {self.after or 'absent'}"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A package at a version; None: that it is not there."""

    name: str
    arch: str
    version: str | None


def key_of(name: str, arch: str, native: str) -> str:
    """The key of a package on a system of architecture `native`."""
    return name if arch in (native, "all") else f"{name}:{arch}"


def parse_installed(text: str, native: str) -> dict[str, Installed]:
    """What dpkg-query lists with `INSTALLED_FIELDS`, tab-separated, one package a line; by key. Raises `RefusedError`
    (`packages-unsound`) for a line that isn't one."""
    found: dict[str, Installed] = {}
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) != len(INSTALLED_FIELDS) or len(fields[3]) < 2 or not fields[0]:
            raise RefusedError(
                ReasonKind.PACKAGES_UNSOUND, f"The package database has a line that is none: {line[:200]!r}."
            )
        name, arch, version, status, source, source_version = fields
        one = Installed(
            name=name,
            arch=arch or native,
            version=version,
            status=f"{status:<3}"[:3],
            source=source,
            source_version=source_version,
        )
        found[key_of(name, one.arch, native)] = one
    return found


def parse_simulation(text: str, native: str) -> tuple[Change, ...]:
    """The changes of `apt-get --simulate`, sorted. Raises `RefusedError` (`plan-differs`) for a change that can't be read: what
    isn't understood must not be done."""
    changes = []
    for line in text.splitlines():
        if line.partition(" ")[0] not in CHANGE_WORDS:
            continue
        match = _CHANGE.match(line)
        if match is None or (match["word"] == "Inst") != (match["after"] is not None):
            raise RefusedError(ReasonKind.PLAN_DIFFERS, f"The plan has a line that can't be read: {line[:200]!r}.")
        arch = match["arch"] or match["foreign"] or native
        changes.append(Change(name=match["name"], arch=arch, before=match["before"], after=match["after"]))
    return tuple(sorted(changes, key=lambda one: (one.name, one.arch)))


def changes_to(wanted: Iterable[Wanted], installed: Mapping[str, Installed], native: str) -> tuple[Change, ...]:
    """What has to change for everything wanted to be there; what is there soundly already is left out."""
    changes = []
    for one in wanted:
        held = installed.get(key_of(one.name, one.arch, native))
        before = held.version if held is not None and held.is_there else None
        if before != one.version or (held is not None and not held.is_sound):
            changes.append(Change(name=one.name, arch=one.arch, before=before, after=one.version))
    return tuple(sorted(changes, key=lambda one: (one.name, one.arch)))


def plan_hash(changes: Iterable[Change]) -> str:
    """Names a plan."""
    return plan_sha256((one.name, one.arch, one.before or "", one.after or "") for one in changes)


def unlike(planned: Sequence[Change], signed: Sequence[Change], native: str) -> str | None:
    """How the package manager's plan differs from what has to change; None when it is exactly that.

    A package whose configuration is to be finished at its present version shows in no plan, so it may be left out of it.
    """
    said = {key_of(one.name, one.arch, native): one for one in planned}
    due = {key_of(one.name, one.arch, native): one for one in signed}
    extra = [one.text for key, one in said.items() if key not in due]
    wrong = [
        f"{said[key].text} instead of {one.after or 'absent'}"
        for key, one in due.items()
        if key in said and said[key].after != one.after
    ]
    lacking = [one.text for key, one in due.items() if key not in said and one.before != one.after]
    parts = (("also wants", extra), ("has", wrong), ("leaves out", lacking))
    told = [f"it {how} {_listed(names)}" for how, names in parts if names]
    return "; ".join(told) if told else None


def world_hash(installed: Mapping[str, Installed], without: Iterable[str]) -> str:
    """Names everything that is installed but the packages of these keys: what must be the same before and after."""
    left_out = set(without)
    return plan_sha256(
        (one.name, one.arch, one.version, one.status[1:])
        for key, one in installed.items()
        if key not in left_out and one.is_there
    )


def unsound(installed: Mapping[str, Installed]) -> list[str]:
    """The packages that are neither wholly there nor wholly gone."""
    return sorted(f"{key} ({one.status.strip()})" for key, one in installed.items() if not one.is_sound)


def held_among(changes: Iterable[Change], installed: Mapping[str, Installed], native: str) -> list[str]:
    """The packages that a person holds and that would change."""
    keys = [key_of(one.name, one.arch, native) for one in changes]
    return sorted(key for key in keys if key in installed and installed[key].is_held)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"

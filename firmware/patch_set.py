"""An OS patch set: the exact packages, by version and by the hash of their files, that a release of this kind brings.

It is the one image of such a release, so that it is signed, listed, ordered and fetched as firmware is. Who installs it takes the
packages from anywhere and believes only these hashes; the set leads to nothing but what it names.
"""

import hashlib
from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta, Struct

from firmware.contents import twice
from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.words import Label, ReasonKind, Sha256

KIND: Literal["os-patch-set"] = "os-patch-set"
FILE_NAME = "patch-set.json"
MAX_BYTES = 8 << 20
MAX_PACKAGES = 8192
MAX_DEB_BYTES = 4 << 30

PackageName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9+._-]{0,127}\Z")]
Architecture = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}\Z")]
PackageVersion = Annotated[str, Meta(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+:~^_-]{0,127}\Z")]


class SetPackage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One package as it will be installed where it is already; with `install` also where it isn't. `length` and `sha256` are its
    file's; `source` names the source package, with its version, that advisories speak of (empty: the package's own)."""

    name: PackageName
    arch: Architecture
    version: PackageVersion
    length: Annotated[int, Meta(ge=1, le=MAX_DEB_BYTES)]
    sha256: Sha256
    source: Annotated[str, Meta(max_length=128)] = ""
    source_version: Annotated[str, Meta(max_length=128)] = ""
    install: bool = False

    @property
    def spec(self) -> str:
        """As package managers want it named: `name:arch=version`."""
        return f"{self.name}:{self.arch}={self.version}"


class PatchSet(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The packages, sorted by name and architecture. `system`: what they are for, such as `debian-12`, for people. `downgrades`:
    whether a host that has a higher version goes back to the set's; without, it refuses."""

    v: Annotated[int, Meta(ge=1, le=1)] = 1
    format: Literal["deb", "rpm"] = "deb"
    system: Label = ""
    downgrades: bool = False
    packages: Annotated[list[SetPackage], Meta(min_length=1, max_length=MAX_PACKAGES)]

    @property
    def length(self) -> int:
        """Bytes of all package files."""
        return sum(one.length for one in self.packages)


def patch_set(packages: Iterable[SetPackage], *, system: str = "", downgrades: bool = False) -> PatchSet:
    """A set in its one order. Raises `RefusedError` (`malformed`) as `parse_patch_set`."""
    ordered = sorted(packages, key=lambda one: (one.name, one.arch))
    return _checked(PatchSet(system=system, downgrades=downgrades, packages=ordered))


def encode_patch_set(one: PatchSet) -> bytes:
    """Its canonical bytes: equal sets have equal bytes."""
    return canonical(one)


def parse_patch_set(data: bytes) -> PatchSet:
    """Parse and check. Raises `RefusedError` (`malformed`, `too-large`), also for a package that comes twice or out of order."""
    return _checked(convert(parse_json(data, max_bytes=MAX_BYTES), PatchSet))


def plan_sha256(changes: Iterable[tuple[str, str, str, str]]) -> str:
    """The hash of a plan, from (name, architecture, version before or empty, version after or empty), in any order."""
    lines = "".join(f"{' '.join(part or '-' for part in change)}\n" for change in sorted(changes))
    return hashlib.sha256(f"otaria package plan v1\n{lines}".encode()).hexdigest()


def _checked(one: PatchSet) -> PatchSet:
    names = [f"{package.name}:{package.arch}" for package in one.packages]
    again = twice(names)
    if again is not None:
        raise RefusedError(ReasonKind.MALFORMED, f"The patch set names {again} twice.")
    keys = [(package.name, package.arch) for package in one.packages]
    if keys != sorted(keys):
        raise RefusedError(ReasonKind.MALFORMED, "The patch set's packages are not sorted by name and architecture.")
    return one

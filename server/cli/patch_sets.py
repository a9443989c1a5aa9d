"""`otaria release patch-set`: from a list of packages to the document that is signed: exact versions, and their files' hashes."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import click
import msgspec

from firmware.atomic import atomic_output
from firmware.deb_index import paragraphs, source_of
from firmware.errors import RefusedError
from firmware.patch_set import MAX_BYTES, SetPackage, encode_patch_set
from firmware.patch_set import patch_set as ordered_set
from firmware.protocol.codec import convert, parse_json
from firmware.protocol.words import ReasonKind
from server.cli.output import emit, json_option

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
MAX_INDEX_BYTES = 512 << 20
_LINE = re.compile(r"(?P<new>\+?)(?P<name>[^\s:=]+)(?::(?P<arch>[^\s=]+))?=(?P<version>\S+)\Z")
Listed = tuple[str, str | None, str, bool]
"""Name, architecture if it was given, version, and whether it is installed where it isn't yet."""


@click.command("patch-set")
@click.option(
    "--list", "listed", type=FILE, help="Lines of NAME[:ARCH]=VERSION; a + before one installs it where it isn't yet."
)
@click.option(
    "--index",
    type=FILE,
    multiple=True,
    help="An archive's Packages file, which tells sizes and hashes; repeat for more.",
)
@click.option(
    "--pending",
    type=FILE,
    multiple=True,
    help="What `otaria-agent packages --json` said on a host of the group; repeat.",
)
@click.option("--security-only", is_flag=True, help="Of what is pending, only what comes from a security archive.")
@click.option("--system", default="", help="What it is for, such as debian-12.")
@click.option("--downgrades", is_flag=True, help="Hosts that are ahead of a version go back to it.")
@click.option("-o", "--output", metavar="FILE", required=True, type=click.Path(path_type=Path, dir_okay=False))
@json_option
def patch_set(
    listed: Path | None,
    index: tuple[Path, ...],
    pending: tuple[Path, ...],
    security_only: bool,
    system: str,
    downgrades: bool,
    output: Path,
    as_json: bool,
) -> None:
    """Write an OS patch set: exactly these packages, from a list, or from what is pending on hosts. Build a release of it next.

    Example: otaria release patch-set --pending web-1.json --pending web-2.json --security-only -o patch-set.json
    """
    if bool(listed) is bool(pending) or (listed is not None and not index):
        raise click.UsageError("Give --list FILE with --index FILE, or --pending FILE.")
    if listed is not None:
        packages = from_index(read_list(listed.read_text()), _indexes(index))
    else:
        packages = from_pending([_read(path) for path in pending], security_only=security_only)
    made = ordered_set(packages, system=system, downgrades=downgrades)
    with atomic_output(output) as file:
        file.write(encode_patch_set(made))
    facts = {"file": str(output), "packages": len(made.packages), "bytes": made.length}
    text = f"Wrote {output}: {len(made.packages)} packages, {made.length} bytes of files. Build a release of it with --patch-set."
    emit(facts, as_json=as_json, text=text)


def read_list(text: str) -> list[Listed]:
    """The lines of a list; empty ones and those after `#` are nothing. Raises `RefusedError` (`malformed`)."""
    found = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.partition("#")[0].strip()
        match = _LINE.match(line)
        if line and match is None:
            raise RefusedError(ReasonKind.MALFORMED, f"Line {number} is not NAME[:ARCH]=VERSION: {line[:100]!r}.")
        if match is not None:
            found.append((match["name"], match["arch"], match["version"], match["new"] == "+"))
    return found


def from_index(listed: Iterable[Listed], stanzas: Iterable[Mapping[str, str]]) -> list[SetPackage]:
    """Each listed package as the indexes have it. Raises `RefusedError` (`package-missing`, `malformed`) for one that they don't
    have, or have for several architectures without one being named."""
    wanted = list(listed)
    names = {name for name, *_ in wanted}
    known: dict[tuple[str, str], list[dict[str, str]]] = {}
    for fields in stanzas:
        if fields.get("Package") in names:
            known.setdefault((fields["Package"], fields.get("Version", "")), []).append(dict(fields))
    return [_from(one, known.get((one[0], one[2]), [])) for one in wanted]


def from_pending(documents: Iterable[Mapping[str, object]], *, security_only: bool) -> list[SetPackage]:
    """The union of what is pending on hosts. Raises `RefusedError` (`plan-differs`) when hosts would get different versions."""
    found: dict[tuple[str, str], SetPackage] = {}
    for document in documents:
        for one in convert({"pending": document.get("pending", [])}, _Pending).pending:
            if security_only and not one.is_security:
                continue
            package = SetPackage(
                name=one.name,
                arch=one.arch,
                version=one.version,
                length=one.length,
                sha256=one.sha256,
                source=one.source,
                source_version=one.source_version,
            )
            held = found.setdefault((one.name, one.arch), package)
            if held != package:
                text = f"{one.name} is pending as {held.version} on one host and as {one.version} on another; refresh both."
                raise RefusedError(ReasonKind.PLAN_DIFFERS, text)
    if not found:
        raise RefusedError(
            "nothing-pending", "Nothing is pending on these hosts, so there is nothing to make a set of."
        )
    return list(found.values())


class _Offer(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    arch: str
    version: str
    length: int
    sha256: str
    is_security: bool = False
    source: str = ""
    source_version: str = ""


class _Pending(msgspec.Struct, frozen=True, kw_only=True):
    pending: list[_Offer]


def _from(one: Listed, stanzas: list[dict[str, str]]) -> SetPackage:
    name, arch, version, install = one
    fits = {fields.get("Architecture", ""): fields for fields in stanzas if arch in (None, fields.get("Architecture"))}
    if not fits:
        raise RefusedError(ReasonKind.PACKAGE_MISSING, f"No index lists {name}{f':{arch}' if arch else ''}={version}.")
    if len(fits) > 1:
        text = (
            f"{name}={version} is there for {', '.join(sorted(fits))}; name one, as {name}:{sorted(fits)[0]}={version}."
        )
        raise RefusedError(ReasonKind.MALFORMED, text)
    ((found, fields),) = fits.items()
    source, source_version = source_of(fields)
    size = fields.get("Size", "")
    values = {
        "name": name,
        "arch": found,
        "version": version,
        "length": int(size) if size.isdecimal() else 0,
        "sha256": fields.get("SHA256", ""),
        "source": source,
        "source_version": source_version,
        "install": install,
    }
    return convert(values, SetPackage)


def _indexes(paths: Iterable[Path]) -> Iterator[dict[str, str]]:
    for path in paths:
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise RefusedError(ReasonKind.TOO_LARGE, f"{path} is too large for a Packages file.")
        yield from paragraphs(path.read_text(errors="replace"))


def _read(path: Path) -> dict[str, object]:
    return parse_json(path.read_bytes(), max_bytes=4 * MAX_BYTES)

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
from server.cli.rest import connect, server_options

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
@click.option(
    "--group",
    metavar="QUERY",
    help="Of what is pending on the hosts that fit this, as they told the server; 'hardware:NAME'.",
)
@click.option("--security-only", is_flag=True, help="Of what is pending, only what comes from a security archive.")
@click.option("--system", default="", help="What it is for, such as debian-12.")
@click.option("--downgrades", is_flag=True, help="Hosts that are ahead of a version go back to it.")
@click.option("-o", "--output", metavar="FILE", required=True, type=click.Path(path_type=Path, dir_okay=False))
@server_options
@json_option
def patch_set(
    listed: Path | None,
    index: tuple[Path, ...],
    pending: tuple[Path, ...],
    group: str | None,
    security_only: bool,
    system: str,
    downgrades: bool,
    output: Path,
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Write an OS patch set: exactly these packages, from a list, or from what is pending on hosts. Build a release of it next.

    Example: otaria release patch-set --group 'hardware:debian-12-amd64 and site:Ulm' --security-only -o patch-set.json
    """
    ways = (listed is not None, bool(pending), group is not None)
    if sum(ways) != 1 or (listed is not None and not index):
        raise click.UsageError("Give --list FILE with --index FILE, or --pending FILE, or --group QUERY.")
    review: list[str] = []
    if group is not None:
        asked = {"query": group, "security": "true" if security_only else "false"}
        found = connect(server, token_file, state).get("/hosts-pending", **asked)
        packages = from_group(found)
        review = review_of(found)
    elif listed is not None:
        packages = from_index(read_list(listed.read_text()), _indexes(index))
    else:
        packages = from_pending([_read(path) for path in pending], security_only=security_only)
    made = ordered_set(packages, system=system, downgrades=downgrades)
    with atomic_output(output) as file:
        file.write(encode_patch_set(made))
    facts = {"file": str(output), "packages": len(made.packages), "bytes": made.length, "review": review}
    text = "".join(f"{line}\n" for line in review)
    text += f"Wrote {output}: {len(made.packages)} packages, {made.length} bytes of files. "
    text += "Build a release of it with --patch-set."
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
    left_out = 0
    for document in documents:
        for one in convert({"pending": document.get("pending", [])}, _Pending).pending:
            if security_only and not one.is_security:
                left_out += 1
                continue
            package = _package(one)
            held = found.setdefault((one.name, one.arch), package)
            if held != package:
                text = f"{one.name} is pending as {held.version} on one host and as {one.version} on another; refresh both."
                raise RefusedError(ReasonKind.PLAN_DIFFERS, text)
    if not found:
        text = "Nothing is pending on these hosts, so there is nothing to make a set of."
        if left_out:
            text = f"Nothing of what is pending here comes from a security archive; without --security-only it is {left_out}."
        raise RefusedError("nothing-pending", text)
    return list(found.values())


def from_group(found: object) -> list[SetPackage]:
    """What waits in a group, as the server has it of its hosts. Raises `RefusedError` (`package-missing`) for a package of which
    no host told length and hash."""
    offers = [one.offer for one in convert(found, _Group).pending]
    unknown = [f"{one.name}:{one.arch}={one.version}" for one in offers if not (one.length and one.sha256)]
    if unknown:
        text = (
            f"No host told the file of {', '.join(unknown[:8])}; refresh one, or make the set with --list and --index."
        )
        raise RefusedError(ReasonKind.PACKAGE_MISSING, text)
    return [_package(one) for one in offers]


def review_of(found: object) -> list[str]:
    """What somebody should read before signing: each package with how many hosts get it, and where hosts were offered less."""
    group = convert(found, _Group)
    silent = f"; {group.silent} told none and are not counted" if group.silent else ""
    lines = [f"{_hosts(group.hosts)} of {group.hardware} told what is pending{silent}:"]
    for one in group.pending:
        mark = " security" if one.offer.is_security else ""
        line = (
            f"  {one.offer.name}:{one.offer.arch} {one.offer.before} to {one.offer.version}{mark}, {_hosts(one.hosts)}"
        )
        lower = ", ".join(f"{number} are offered only {version}" for version, number in one.others.items())
        lines.append(f"{line}; {lower}" if lower else line)
    return lines


def _hosts(number: int) -> str:
    return "1 host" if number == 1 else f"{number} hosts"


class _Offer(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    arch: str
    version: str
    length: int
    sha256: str
    is_security: bool = False
    source: str = ""
    source_version: str = ""


class _GroupOffer(_Offer, frozen=True, kw_only=True):
    before: str = ""


class _InGroup(msgspec.Struct, frozen=True, kw_only=True):
    offer: _GroupOffer
    hosts: int
    others: dict[str, int]


class _Group(msgspec.Struct, frozen=True, kw_only=True):
    hardware: str
    hosts: int
    silent: int
    pending: list[_InGroup]


class _Pending(msgspec.Struct, frozen=True, kw_only=True):
    pending: list[_Offer]


def _package(one: _Offer) -> SetPackage:
    return SetPackage(
        name=one.name,
        arch=one.arch,
        version=one.version,
        length=one.length,
        sha256=one.sha256,
        source=one.source,
        source_version=one.source_version,
    )


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

"""Debian control paragraphs: what an archive's `Packages` index, or `apt-cache show`, says of package files. Pure."""

from collections.abc import Iterator

MAX_FIELDS = 200


def paragraphs(text: str) -> Iterator[dict[str, str]]:
    """Each paragraph's fields by name, without continued lines; a field that comes twice counts once, the first time."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip():
            if fields:
                yield fields
            fields = {}
        elif not line.startswith((" ", "\t", "#")) and len(fields) < MAX_FIELDS:
            name, _, value = line.partition(":")
            fields.setdefault(name, value.strip())
    if fields:
        yield fields


def source_of(fields: dict[str, str]) -> tuple[str, str]:
    """Source package and its version: `Source: name (version)`, or the package's own."""
    name, _, version = fields.get("Source", fields.get("Package", "")).partition(" ")
    return name, version.strip("()") or fields.get("Version", "")

"""What `otaria release inspect` says: of an image what its bytes tell, of a manifest what was written into it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from firmware.images.facts import ImageFacts
from firmware.manifest import Manifest, manifest_document
from server.cli.output import table

Row = tuple[str, object]


def manifest_facts(manifest: Manifest) -> dict[str, Any]:
    """The manifest as it is written, unknown fields too, with the number of windows for their hashes."""
    facts = manifest_document(manifest)
    for image in facts["images"]:
        image["windows"] = len(image["windows"])
    return facts


def manifest_table(facts: Mapping[str, Any], title: str) -> Table:
    """One row a field."""
    rows = [(name, value if isinstance(value, str | int) else json.dumps(value)) for name, value in facts.items()]
    return table(("fact", "value"), rows, title=title)


def image_facts(path: Path) -> ImageFacts:
    """What the file's own bytes tell. Raises `OSError`, and `RefusedError` (`not-a-file`)."""
    from firmware.images.identify import identify  # decoders and formats that no other command needs

    return identify(path)


def image_table(facts: ImageFacts, title: str) -> Table:
    """One row a fact; parts and what is inside follow, indented."""
    return table(("fact", "value"), _rows(facts, ""), title=title)


def _rows(facts: ImageFacts, indent: str) -> Iterator[Row]:
    named = ("kind", "version", "size_bytes", "used_bytes", "compression", "security_counter")
    for name in named:
        if (value := getattr(facts, name)) is not None:
            yield f"{indent}{name}", value
    for name, text in facts.details.items():
        yield f"{indent}{name}", text
    for part in facts.parts:
        about = " ".join(f"{name}={text}" for name, text in part.details.items() if text)
        what = f"{part.kind}, {part.size_bytes} bytes at {part.offset_bytes}"
        yield f"{indent}part {part.name}", f"{what}, {about}" if about else what
        if part.content is not None and part.content.kind != "unknown":
            yield from _rows(part.content, f"{indent}  ")
    if facts.content is not None:
        yield f"{indent}inside", ""
        yield from _rows(facts.content, f"{indent}  ")
    for problem in facts.problems:
        yield f"{indent}problem", problem

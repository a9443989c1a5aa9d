"""What `otaria release build` finds out about a release's files before they go into its manifest."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec

from firmware.checks import HealthCheck, Watch, require_understood
from firmware.errors import RefusedError
from firmware.manifest import MAX_SBOM_BYTES, Data, Requires, Sbom
from firmware.protocol.codec import parse_json
from firmware.protocol.words import ReasonKind
from server.cli.release_facts import image_facts


def requires_of(min_counter: int, through: Sequence[int]) -> Requires | None:
    """The requirements, or None when there are none."""
    if not min_counter and not through:
        return None
    return Requires(min_counter=min_counter, through=sorted(set(through)))


def health_of(path: Path | None) -> tuple[list[HealthCheck], Watch | None]:
    """The checks in a JSON file, and how they are watched: a list of checks, or an object of `checks` and the fields of `Watch`.

    Raises `RefusedError` (`malformed`, `not-understood`); a name that neither has is a mistake here, not something newer.
    """
    if path is None:
        return [], None
    try:
        value = msgspec.json.decode(path.read_bytes())
        fields = dict(value) if isinstance(value, dict) else {"checks": value}
        listed = fields.pop("checks", [])
        checks = msgspec.convert(listed, list[HealthCheck])
        watch = msgspec.convert(fields, Watch) if fields else None
    except msgspec.MsgspecError as error:
        text = f"{path} is neither a JSON list of health checks nor an object with `checks`: {error}."
        raise RefusedError(ReasonKind.MALFORMED, text) from error
    strange = {name for one in listed for name in _unknown(one, HealthCheck)} | set(_unknown(fields, Watch))
    if strange:
        raise RefusedError(ReasonKind.MALFORMED, f"{path} names what there is not: {', '.join(sorted(strange))}.")
    require_understood(checks)
    return checks, watch


def data_of(path: Path | None) -> Data | None:
    """What a JSON file says about the data that the release keeps beside the slots. Raises `RefusedError` (`malformed`)."""
    if path is None:
        return None
    try:
        value = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        data = msgspec.convert(value, Data)
    except msgspec.MsgspecError as error:
        raise RefusedError(
            ReasonKind.MALFORMED, f"{path} is not a JSON object that describes data: {error}."
        ) from error
    strange = _unknown(value, Data)
    if strange:
        raise RefusedError(ReasonKind.MALFORMED, f"{path} names what there is not: {', '.join(sorted(strange))}.")
    return data


def _unknown(value: dict[str, Any], kind: type[msgspec.Struct]) -> list[str]:
    """Names that aren't fields; an empty `other` is how a Struct without them is written."""
    return [name for name in value if name not in kind.__struct_fields__ or (name == "other" and value[name] != {})]


def sbom_of(path: Path, folder: str, *, taken: Collection[str]) -> Sbom:
    """The reference to a CycloneDX file, which goes to `folder` in the catalogue beside the files named in `taken`.

    Raises `RefusedError` (`bad-sbom`) for anything but CycloneDX as JSON.
    """
    if path.stat().st_size > MAX_SBOM_BYTES:
        raise RefusedError("bad-sbom", f"{path} is longer than {MAX_SBOM_BYTES} bytes; shorten it.")
    data = path.read_bytes()
    try:
        document = parse_json(data, max_bytes=MAX_SBOM_BYTES)
    except RefusedError as error:
        raise RefusedError("bad-sbom", f"{path} is not a CycloneDX file in JSON: {error.text}") from error
    if document.get("bomFormat") != "CycloneDX" or not isinstance(document.get("specVersion"), str):
        raise RefusedError(
            "bad-sbom", f"{path} does not say that it is CycloneDX; give one in JSON, not in XML or SPDX."
        )
    if path.name in taken:
        raise RefusedError(ReasonKind.MALFORMED, f"The bill of materials can't be called {path.name} too; rename it.")
    return Sbom(path=f"{folder}/{path.name}", length=len(data), sha256=hashlib.sha256(data).hexdigest())


def security_counter_of(image: Path, given: int | None) -> int | None:
    """The image's own security counter, or the given one when it has none; raises `RefusedError` when they differ."""
    own = image_facts(image).security_counter
    if own is not None and given not in (None, own):
        raise RefusedError(
            "counter-differs",
            f"The security counter in {image} is {own}, not {given}; build the image again or omit it.",
        )
    return given if own is None else own

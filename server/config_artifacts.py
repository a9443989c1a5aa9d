"""The section [artifacts]: where whole artifacts rest. Keys are never in it: they come from the environment or from a file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from firmware.errors import RefusedError

KIND = "config"
Store = Literal["files", "s3"]
_ENDPOINT = re.compile(r"^https?://[A-Za-z0-9.\[\]:_-]{1,300}/?\Z")
_BUCKET = re.compile(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
_REGION = re.compile(r"^[a-z0-9-]{1,64}\Z")
_PREFIX = re.compile(r"^(?:[A-Za-z0-9_.-]{1,64}/){0,8}\Z")
_PROFILE = re.compile(r"^[A-Za-z0-9_.@+-]{1,64}\Z")
_PATTERNS = {
    "endpoint": (_ENDPOINT, "the address of the store, such as https://s3.example.org, without user or path"),
    "bucket": (_BUCKET, "the name of a bucket"),
    "region": (_REGION, "the name of a region, such as eu-central-1"),
    "prefix": (_PREFIX, "empty, or end in a slash, such as firmware/"),
    "profile": (_PROFILE, "the name of a profile in the credentials file"),
}
BOUNDS: Mapping[str, tuple[float, float]] = {
    "timeout_s": (1, 300),
    "connections": (1, 256),
    "downloads": (1, 100_000),
    "spool_bytes": (1 << 20, 1 << 50),
}


@dataclass(frozen=True, kw_only=True)
class ArtifactSettings:
    """`store`: `files` of the state directory, or objects of an S3-compatible store, which all others are for. `endpoint` None:
    Amazon's own. `credentials_file`, `profile`: whose keys are used (None: those of the environment, or of the machine).
    `connections`: requests to the store at once. `downloads`: how many are passed through at once. `spool_bytes`: what copies on
    this machine may take together."""

    store: Store = "files"
    endpoint: str | None = None
    bucket: str | None = None
    region: str | None = None
    prefix: str = ""
    profile: str | None = None
    credentials_file: Path | None = None
    ca_file: Path | None = None
    timeout_s: float = 10.0
    connections: int = 16
    downloads: int = 256
    spool_bytes: int = 16 << 30


class _Section(Struct, forbid_unknown_fields=True):
    store: Store
    endpoint: str | None
    bucket: str | None
    region: str | None
    prefix: str
    profile: str | None
    credentials_file: str | None
    ca_file: str | None
    timeout_s: float
    connections: int
    downloads: int
    spool_bytes: int


DEFAULTS: Mapping[str, Any] = {one.name: one.default for one in fields(ArtifactSettings)}


def parse_artifacts(section: Mapping[str, Any], base: Path) -> ArtifactSettings:
    """The settings of [artifacts], with paths resolved against `base`; raises `RefusedError` (`config`) naming what is wrong."""
    try:
        raw = msgspec.convert(dict(section), _Section, strict=True)
    except msgspec.ValidationError as error:
        raise RefusedError(KIND, f"`artifacts` is wrong: {error}.") from error
    given = msgspec.structs.asdict(raw)
    for name, (pattern, what) in _PATTERNS.items():
        if given[name] is not None and not pattern.match(given[name]):
            raise RefusedError(KIND, f"`artifacts.{name}` must be {what}.")
    for name, (least, most) in BOUNDS.items():
        if not least <= given[name] <= most:
            raise RefusedError(KIND, f"`artifacts.{name}` must be from {least:g} to {most:g}.")
    if raw.store == "s3" and raw.bucket is None:
        raise RefusedError(KIND, '`artifacts.bucket` must name the bucket when `artifacts.store` is "s3".')
    for name in ("credentials_file", "ca_file"):
        given[name] = (base / Path(given[name]).expanduser()).resolve() if given[name] else None
    return ArtifactSettings(**given)

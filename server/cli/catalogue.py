"""`otaria catalogue`: the device's catalogue client, driven by hand, for whoever debugs a catalogue.

Exit 0 when the whole step succeeded, 1 when any part failed.
"""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import click
from tuf.api.metadata import TargetFile

from firmware.atomic import atomic_output
from firmware.catalogue.client import CatalogueClient
from firmware.catalogue.metadata import matches
from firmware.catalogue.store import FileStore
from firmware.catalogue.trust import Limits
from firmware.catalogue.web import WebFetch
from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind
from server.cli.output import emit, json_option
from server.errors import NotFoundError

T = TypeVar("T")
MAX_FILE_NAME = 200
_DOTS = {".": "%2E", "..": "%2E%2E"}


@dataclass(frozen=True, kw_only=True)
class _Where:
    metadata_dir: Path
    metadata_url: str | None
    target_name: str | None
    target_base_url: str | None
    target_dir: Path | None


@click.group()
@click.option(
    "--metadata-dir", type=click.Path(path_type=Path, file_okay=False), help="Where the verified metadata is kept."
)
@click.option("--metadata-url", help="Where the repository serves its metadata.")
@click.option("--target-name", help="Path of a target in the catalogue.")
@click.option("--target-base-url", help="Where the repository serves its targets.")
@click.option(
    "--target-dir", type=click.Path(path_type=Path, file_okay=False), help="Where downloaded targets are kept."
)
@click.pass_context
def catalogue(
    ctx: click.Context,
    metadata_dir: Path | None,
    metadata_url: str | None,
    target_name: str | None,
    target_base_url: str | None,
    target_dir: Path | None,
) -> None:
    """Read a TUF catalogue as a device does.

    Example: otaria catalogue --metadata-dir D --metadata-url http://127.0.0.1:8080/metadata refresh
    """
    if metadata_dir is None:
        raise click.UsageError("Missing option '--metadata-dir': it names the directory of the verified metadata.")
    ctx.obj = _Where(
        metadata_dir=metadata_dir,
        metadata_url=metadata_url,
        target_name=target_name,
        target_base_url=target_base_url,
        target_dir=target_dir,
    )


@catalogue.command()
@click.argument("root", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@json_option
@click.pass_obj
def init(where: _Where, root: Path, as_json: bool) -> None:
    """Trust the root metadata in the file ROOT from now on.

    Example: otaria catalogue --metadata-dir D init 1.root.json
    """
    with root.open("rb") as file:
        data = file.read(Limits().root_bytes + 1)
    CatalogueClient.initialise(FileStore(where.metadata_dir), data)
    digest = hashlib.sha256(data).hexdigest()
    emit({"root_sha256": digest}, as_json=as_json, text=f"Trusting the root with the sha256 {digest}.")


@catalogue.command()
@json_option
@click.pass_obj
def refresh(where: _Where, as_json: bool) -> None:
    """Fetch and verify new metadata; strict.

    Example: otaria catalogue --metadata-dir D --metadata-url URL refresh
    """
    client = _refreshed(where)
    versions = client.versions()
    text = "Up to date: " + ", ".join(f"{role} {version}" for role, version in versions.items()) + "."
    emit({"versions": versions}, as_json=as_json, text=text)


@catalogue.command()
@json_option
@click.pass_obj
def download(where: _Where, as_json: bool) -> None:
    """Refresh, then download and verify the target --target-name; one that is there and verifies is used again.

    Example: otaria catalogue --metadata-dir D --metadata-url URL --target-name releases/pump/1.0/pump.img
    --target-base-url URL/targets --target-dir T download
    """
    name = _required(where.target_name, "--target-name")
    if any("\ud800" <= letter <= "\udfff" for letter in name):  # bytes of the command line that are no text
        raise click.UsageError("The --target-name is not UTF-8, so no catalogue can list it.")
    directory = _required(where.target_dir, "--target-dir")
    base = _required(where.target_base_url, "--target-base-url")
    client = _refreshed(where)
    target = client.find(name)
    if target is None:
        raise NotFoundError(f"No trusted role of the catalogue lists {name}.")
    path = directory / local_name(name)
    reused = _held(target, path)
    if not reused:
        directory.mkdir(parents=True, exist_ok=True)
        _fetch_target(WebFetch(base), client.address(target), target, path)
    text = f"{path} is there already and verifies." if reused else f"Downloaded {path} ({target.length} bytes)."
    emit({"path": str(path), "length": target.length, "reused": reused}, as_json=as_json, text=text)


def local_name(target_name: str) -> str:
    """A file name for a target that stays inside its directory whatever the target's name holds."""
    quoted = quote(target_name, safe="")
    if quoted.strip(".") == "" or len(quoted) > MAX_FILE_NAME:
        return hashlib.sha256(target_name.encode()).hexdigest()
    return quoted


def web_path(address: str) -> str:
    """A target's address below its base URL. Segments of dots are quoted too: HTTP libraries would climb up them."""
    return "/".join(_DOTS.get(part) or quote(part, safe="") for part in address.split("/"))


def _held(target: TargetFile, path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return matches(target, file)


def _fetch_target(web: WebFetch, address: str, target: TargetFile, path: Path) -> None:
    with atomic_output(path) as file:
        web.download(web_path(address), target.length, file)
        if not matches(target, file):
            raise RefusedError(
                ReasonKind.ARTIFACT_CHANGED,
                f"{target.path} has another length or hash than the catalogue signed; not kept.",
            )


def _refreshed(where: _Where) -> CatalogueClient:
    url = _required(where.metadata_url, "--metadata-url")
    client = CatalogueClient(FileStore(where.metadata_dir), WebFetch(url), prefetch=())
    client.refresh(time.time())
    return client


def _required(value: T | None, option: str) -> T:
    if value is None:
        raise click.UsageError(f"Missing option '{option}'; give it before the command.")
    return value

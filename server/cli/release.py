"""`otaria release`: from files to a release in a server's catalogue: pack, build, sign (offline), publish; and inspect."""

import hashlib
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from firmware.atomic import atomic_output
from firmware.catalogue.publish import Repository, release_targets
from firmware.contents import MAX_IMAGES, ROOT_SET, named_file, twice
from firmware.encryption.content_key import ContentKey, key_id, public_from_text, public_text
from firmware.errors import RefusedError
from firmware.images.slot_image import build_slot_image
from firmware.manifest import (
    WINDOW_BYTES,
    Encrypted,
    Image,
    Manifest,
    Sbom,
    WindowHasher,
    describe,
    encode_manifest,
    parse_manifest,
)
from firmware.patch_set import KIND, parse_patch_set
from firmware.protocol.words import ReasonKind
from server.cli import patch_sets, release_contents, release_encryption, release_facts, release_standing
from server.cli.output import emit, json_option
from server.cli.progress import gauge, watched
from server.cli.rest import RestClient, connect, server_options
from server.cli.uploading import upload

MANIFEST = "manifest.json"
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
COUNTER = click.IntRange(0, (1 << 53) - 1)
BUILT = click.Path(path_type=Path, exists=True, file_okay=False)


def _images_of(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, Path]:
    """The image files by slot set, `root` first."""
    pairs = [named_file(text) for text in given]
    for what, name in (("slot set", twice(slot for slot, _ in pairs)), ("file name", twice(p.name for _, p in pairs))):
        if name is not None:
            raise click.BadParameter(f"two images have the {what} {name}.", context, parameter)
    images = dict(sorted(pairs, key=lambda pair: (pair[0] != ROOT_SET, pair[0])))
    if not images:
        return {}
    if ROOT_SET not in images or len(images) > MAX_IMAGES:
        raise click.BadParameter(f"give one for {ROOT_SET}, and {MAX_IMAGES} at most.", context, parameter)
    for path in images.values():
        FILE.convert(path, parameter, context)
    return images


@click.group()
def release() -> None:
    """Pack, build, sign, inspect and publish releases.

    Example: otaria release build --product pump --version 2.0 --counter 2 --hardware pump-a --image pump.img -o pump-2.0
    """


release.add_command(patch_sets.patch_set)
release.add_command(release_standing.suspect)
release.add_command(release_standing.clear)


@release.command()
@click.option("--product", required=True, help="The product's name, as in the catalogue.")
@click.option("--version", required=True, help="The release's version.")
@click.option("--counter", required=True, type=COUNTER, help="Rises with every release.")
@click.option(
    "--program", type=FILE, required=True, help="Python program that the slot runs, with its port as argument."
)
@click.option("--payload", type=BUILT, help="Directory whose files go into the image as well.")
@click.option("-o", "--output", metavar="IMAGE", required=True, type=click.Path(path_type=Path, dir_okay=False))
@json_option
def pack(
    product: str, version: str, counter: int, program: Path, payload: Path | None, output: Path, as_json: bool
) -> None:
    """Make a slot image, which a file-backed board boots, out of a program and more files. Equal input gives equal bytes.

    Example: otaria release pack --product pump --version 2.0 --counter 2 --program pump.py -o pump-2.0.img
    """
    _check_image_output(output, program, payload)
    if program.stat().st_size == 0:
        raise RefusedError("program-empty", f"{program} is empty; a slot needs a program to run.")
    members = list(_payload(payload)) if payload else []
    build_slot_image(
        output, product=product, version=version, counter=counter, program=program.read_bytes(), payload=members
    )
    length = output.stat().st_size
    facts = {"image": str(output), "product": product, "version": version, "files": len(members), "length": length}
    text = (
        f"Packed {product} {version} into {output}: {length} bytes, {len(members)} files. Build a release of it next."
    )
    emit(facts, as_json=as_json, text=text)


@release.command()
@click.option("--product", required=True, help="The product's name, as in the catalogue.")
@click.option("--version", required=True, help="The release's version.")
@click.option("--counter", required=True, type=COUNTER, help="Rises with every release.")
@click.option("--hardware", multiple=True, required=True, help="Compatible hardware id; repeat for more.")
@click.option(
    "--image",
    "image",
    metavar="[SLOT=]FILE",
    multiple=True,
    callback=_images_of,
    help="An image file, for the slot set root; repeat with SLOT= for each other set of the device.",
)
@click.option("--patch-set", type=FILE, help="An OS patch set instead of images; `otaria release patch-set` makes one.")
@click.option("--health-file", type=FILE, help="JSON of health checks, and how long they are watched.")
@click.option(
    "--data-file", type=FILE, help="JSON of the data that it keeps beside the slots, and how that is migrated."
)
@click.option("--floor", type=COUNTER, default=0, help="Lowest counter to go back to, later.")
@click.option("--min-uptime", type=click.IntRange(0, 86400), default=0, help="Seconds to be up before it may commit.")
@click.option("--min-counter", type=COUNTER, default=0, help="Lowest release counter it may be installed over.")
@click.option("--through", type=COUNTER, multiple=True, help="Release counter that must not be jumped over.")
@click.option("--sbom", type=FILE, help="Bill of materials, CycloneDX as JSON.")
@click.option("--fixes", metavar="CVE", multiple=True, help="CVE that this release repairs.")
@click.option(
    "--security-counter",
    type=click.IntRange(0, (1 << 32) - 1),
    help="The image's own; read from MCUboot and ESP32 images.",
)
@click.option(
    "--encrypt-to",
    type=FILE,
    metavar="KEYFILE",
    help="Encrypt the image for this server; `otaria release key` gives its key.",
)
@click.option("--notes", default="", help="What is new, for people.")
@click.option("-o", "--output", metavar="OUTDIR", required=True, type=click.Path(path_type=Path, file_okay=False))
@json_option
def build(
    product: str,
    version: str,
    counter: int,
    hardware: tuple[str, ...],
    image: dict[str, Path],
    patch_set: Path | None,
    health_file: Path | None,
    data_file: Path | None,
    floor: int,
    min_uptime: int,
    min_counter: int,
    through: tuple[int, ...],
    sbom: Path | None,
    fixes: tuple[str, ...],
    security_counter: int | None,
    encrypt_to: Path | None,
    notes: str,
    output: Path,
    as_json: bool,
) -> None:
    """Hash images window by window, or an OS patch set, and write OUTDIR/manifest.json and a copy of each image, and of the
    bill of materials.

    A device whose slots are made of several sets needs an image for each: all of them switch together. With --encrypt-to only
    encrypted copies are written. Needs no network.

    Example: otaria release build --product pump --version 2.0 --counter 2 --hardware pump-a --image pump.img -o pump-2.0
    """
    if bool(image) is bool(patch_set):
        raise click.UsageError("Give --image FILE for devices, or --patch-set FILE for hosts.")
    if patch_set is not None:
        parse_patch_set(patch_set.read_bytes())
        image = {ROOT_SET: patch_set}
    folder = f"releases/{product}/{version}"
    names = [path.name for path in image.values()]
    requires = release_contents.requires_of(min_counter, through)
    health, watch = release_contents.health_of(health_file)
    data = release_contents.data_of(data_file)
    draft = Manifest(
        product=product,
        version=version,
        counter=counter,
        kind=KIND if patch_set is not None else "firmware",
        floor=floor,
        hardware=list(hardware),
        images=[
            Image(slot=slot, path=f"{folder}/{path.name}", length=1, sha256="0" * 64, windows=["0" * 64])
            for slot, path in image.items()
        ],
        health=health,
        watch=watch,
        min_uptime_s=min_uptime,
        notes=notes,
        requires=requires,
        sbom=release_contents.sbom_of(sbom, folder, taken=(MANIFEST, *names)) if sbom else None,
        fixes=sorted(set(fixes)),
        security_counter=None
        if patch_set is not None
        else release_contents.security_counter_of(image[ROOT_SET], security_counter),
        data=data,
        crit=[name for name, needed in (("requires", requires), ("watch", watch), ("data", data)) if needed],
    )
    recipient = release_encryption.read_release_key(encrypt_to) if encrypt_to else None
    _write_release(draft, image, sbom, recipient, output, as_json)


def _write_release(
    draft: Manifest,
    images: dict[str, Path],
    sbom: Path | None,
    to: X25519PublicKey | None,
    output: Path,
    as_json: bool,
) -> None:
    """Check the draft before anything is written, then write the files, the manifest last."""
    release_targets(draft.product, encode_manifest(draft))
    for path in images.values():
        if path.stat().st_size == 0:
            raise RefusedError("image-empty", f"{path} is empty; a release needs an image.")
    _require_new(output)
    manifest = _with_images(draft, images, output, to)
    if sbom is not None:
        _copy_hashed(sbom, output / sbom.name)
    data = encode_manifest(manifest)
    parse_manifest(data)
    with atomic_output(output / MANIFEST) as file:
        file.write(data)
    windows = sum(len(image.windows) for image in manifest.images)
    facts: dict[str, object] = {"directory": str(output), "product": draft.product, "version": draft.version}
    facts |= {"length": manifest.length, "sha256": manifest.sha256, "images": _shown(manifest)}
    several = "" if len(images) == 1 else f" in {len(images)} images ({', '.join(images)})"
    size = f"{manifest.length} bytes, {windows} windows{several}"
    text = f"Built {draft.product} {draft.version} in {output}: {size}. Sign it next."
    if to is not None:
        facts["encrypted_to"] = key_id(public_text(to))
        text += f" Encrypted for the server whose release key has the sha256 {facts['encrypted_to']}."
    emit(facts, as_json=as_json, text=text)


def _with_images(draft: Manifest, images: dict[str, Path], output: Path, to: X25519PublicKey | None) -> Manifest:
    """Write the images, encrypted when there is somebody `to` encrypt to; the manifest with what they are."""
    described: list[Image] = []
    encrypted: list[Encrypted] = []
    key = ContentKey.new() if to else None
    for image in draft.images:
        path = images[image.slot]
        if key is None:
            hashes = _copy_hashed(path, output / path.name)
        else:
            hashes, one = release_encryption.encrypt_image(key, path, image.path, output)
            encrypted.append(one)
        shape = {"length": hashes.length, "sha256": hashes.sha256, "windows": hashes.windows}
        described.append(msgspec.structs.replace(image, **shape))
    manifest = msgspec.structs.replace(draft, images=described)
    if key is None or to is None:
        return manifest
    manifest = msgspec.structs.replace(manifest, encrypted=encrypted, crit=[*draft.crit, "encrypted"])
    release_encryption.write_content_key(key, manifest, output, to)
    return manifest


def _shown(manifest: Manifest) -> list[dict[str, object]]:
    return [{"slot": one.slot, "path": one.path, "length": one.length, "sha256": one.sha256} for one in manifest.images]


@release.command()
@click.argument("built", metavar="OUTDIR", type=BUILT)
@click.option("--repository", metavar="DIR", required=True, type=BUILT, help="The catalogue, with its offline keys.")
@json_option
def sign(built: Path, repository: Path, as_json: bool) -> None:
    """Sign a built release with its product's key, after hashing its images again. Signing it twice changes nothing.

    Example: otaria release sign pump-2.0 --repository acme
    """
    data, manifest = _manifest(built)
    for image in manifest.images:
        _require_unchanged(built, manifest.encryption_of(image) or image)
    if manifest.sbom is not None:
        _require_unchanged(built, manifest.sbom)
    Repository.workspace(repository).sign_release(manifest.product, data, now=time.time())
    facts = {"product": manifest.product, "version": manifest.version}
    emit(facts, as_json=as_json, text=f"Signed {manifest.product} {manifest.version}. Publish it next.")


@release.command()
@click.argument("path", metavar="FILE|OUTDIR", type=click.Path(path_type=Path, exists=True))
@json_option
def inspect(path: Path, as_json: bool) -> None:
    """Show what a built release, a manifest or an image file is; of an image its kind, version, size, layout and compression.

    Example: otaria release inspect pump-2.0
    """
    if path.is_dir() or path.name == MANIFEST:
        facts = release_facts.manifest_facts(_manifest(path if path.is_dir() else path.parent)[1])
        emit(facts, as_json=as_json, text=release_facts.manifest_table(facts, str(path)))
    else:
        found = release_facts.image_facts(path)
        emit(msgspec.to_builtins(found), as_json=as_json, text=release_facts.image_table(found, str(path)))


@release.command()
@click.argument("built", metavar="OUTDIR", type=BUILT)
@click.option("--repository", metavar="DIR", required=True, type=BUILT, help="The catalogue it was signed in.")
@server_options
@json_option
def publish(
    built: Path, repository: Path, server: str | None, token_file: Path | None, state: Path | None, as_json: bool
) -> None:
    """Upload a signed release: its files, then its manifest and the product's metadata. Publishing it twice changes nothing.

    Example: otaria release publish pump-2.0 --repository acme --server http://127.0.0.1:8080 --token-file token
    """
    rest = connect(server, token_file, state)
    data, manifest = _manifest(built)
    metadata = Repository.workspace(repository).signed_release(manifest.product, data)
    own = (hashlib.sha256(data).hexdigest(), len(data), built / MANIFEST)
    listed: list[Image | Encrypted | Sbom] = [manifest.encryption_of(image) or image for image in manifest.images]
    listed += [manifest.sbom] if manifest.sbom else []
    files = [(one.sha256, one.length, built / Path(one.path).name) for one in listed]
    sent = [sha256 for sha256, length, path in (own, *files) if _upload(rest, sha256, length, path)]
    body = {"product": manifest.product, "version": manifest.version, "manifest": _base64(data)}
    if manifest.encrypted:
        body["content_key"] = _base64(release_encryption.read_content_key(built))
    rest.post("/releases", {**body, "metadata": _base64(metadata)})
    facts = {"product": manifest.product, "version": manifest.version, "uploaded": sent}
    emit(facts, as_json=as_json, text=f"Published {manifest.product} {manifest.version}; {len(sent)} files were new.")


@release.command()
@click.option("-o", "--output", metavar="KEYFILE", required=True, type=click.Path(path_type=Path, dir_okay=False))
@server_options
@json_option
def key(output: Path, server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Fetch the public key that releases for this server are encrypted to. Compare its sha256 with the server's operator's.

    Example: otaria release key --server http://127.0.0.1:8080 --token-file token -o server.key
    """
    answer = connect(server, token_file, state).get("/release-key")
    public = public_text(public_from_text(str(answer["public"])))
    with atomic_output(output) as file:
        file.write(f"{public}\n".encode())
    facts = {"file": str(output), "key_id": key_id(public)}
    text = f"Wrote the server's release key to {output}. Its sha256 is {key_id(public)}: compare it with what the operator says."
    emit(facts, as_json=as_json, text=text)


def _check_image_output(output: Path, program: Path, payload: Path | None) -> None:
    if output.exists() and output.samefile(program):
        raise click.UsageError(f"The image would overwrite {program}; give it another name.")
    if payload and output.resolve().is_relative_to(payload.resolve()):
        raise click.UsageError(f"The image would lie inside its own payload {payload}; put it elsewhere.")
    if not output.parent.is_dir():
        raise click.UsageError(f"There is no directory {output.parent}; make it first.")


def _payload(folder: Path) -> Iterator[tuple[str, Path]]:
    """The plain files below a folder under their relative names. Anything but files and folders is refused, links too."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise RefusedError(ReasonKind.MALFORMED, f"{path} is not a plain file; take it out of the payload.")
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


def _upload(rest: RestClient, sha256: str, length: int, path: Path) -> bool:
    """Whether the server did not have it yet."""
    try:
        with path.open("rb") as file, gauge(length, f"Uploading {path.name}") as shown:
            return upload(rest, sha256, file, length, shown)
    except FileNotFoundError as error:
        raise RefusedError("image-missing", f"{path} is not there; build the release again.") from error


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _require_new(output: Path) -> None:
    if output.exists() and any(output.iterdir()):
        raise RefusedError("directory-not-empty", f"{output} is not empty; name a new directory for the release.")
    output.mkdir(parents=True, exist_ok=True)


def _copy_hashed(source: Path, destination: Path) -> WindowHasher:
    """Copy and hash in one reading."""
    hasher = WindowHasher()
    with source.open("rb") as file, atomic_output(destination) as out:
        size = source.stat().st_size
        with watched(file, size, f"Hashing {source.name}") as reader:
            while chunk := reader.read(WINDOW_BYTES):
                hasher.update(chunk)
                out.write(chunk)
    return hasher


def _require_unchanged(built: Path, listed: Image | Encrypted | Sbom) -> None:
    path = built / Path(listed.path).name
    try:
        with path.open("rb") as file, watched(file, listed.length, f"Checking {path.name}") as reader:
            found = describe(iter(lambda: reader.read(WINDOW_BYTES), b""))
    except FileNotFoundError as error:
        raise RefusedError("image-missing", f"{path} is not there; build the release again.") from error
    windows = listed.windows if isinstance(listed, Image) else found.windows
    if (found.length, found.sha256, found.windows) != (listed.length, listed.sha256, windows):
        raise RefusedError("image-changed", f"{path} is not the file that the release was built of; build it again.")


def _manifest(built: Path) -> tuple[bytes, Manifest]:
    try:
        data = (built / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise RefusedError("not-built", f"{built} holds no {MANIFEST}; `otaria release build` makes one.") from error
    return data, parse_manifest(data)

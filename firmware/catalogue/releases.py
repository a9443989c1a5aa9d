"""What a release adds to its product's role, and which changes of a product's role a catalogue takes."""

from collections.abc import Mapping
from datetime import UTC, datetime

from tuf.api.metadata import DelegatedRole, TargetFile, Targets

from firmware.catalogue.metadata import refused
from firmware.errors import RefusedError
from firmware.manifest import Manifest, parse_manifest
from firmware.protocol.words import ReasonKind

MAX_VERSION_STEP = 1000
"""How far a product's metadata may jump at once; more would be a fast-forward."""


def release_targets(product: str, manifest: bytes) -> dict[str, TargetFile]:
    """The catalogue entries of a release, from its manifest bytes: the manifest's own and one for each image, as stored."""
    facts = parse_manifest(manifest)
    if facts.product != product:
        raise RefusedError("wrong-product", f"The manifest is of {facts.product}, not of {product}.")
    folder = f"releases/{product}/{facts.version}/"
    about = {"version": facts.version, "counter": facts.counter, "hardware": list(facts.hardware)}
    path = f"{folder}manifest.json"
    out = {path: TargetFile.from_data(path, manifest, ["sha256"])}
    out[path].unrecognized_fields["custom"] = {"kind": "manifest", **about}
    for image in facts.images:
        stored = facts.encryption_of(image) or image
        name = stored.path.removeprefix(folder)
        if name == stored.path or "/" in name or stored.path in out:
            raise RefusedError(
                ReasonKind.MALFORMED, f"An image of this release must be {folder}NAME, not {stored.path}."
            )
        kind = "image" if stored is image else "encrypted-image"
        custom = {"custom": {"kind": kind, **about}}
        out[stored.path] = TargetFile(stored.length, {"sha256": stored.sha256}, stored.path, custom)
    return out


def adds(current: Mapping[str, TargetFile], wanted: Mapping[str, TargetFile], facts: Manifest) -> bool:
    """Whether the release is new beside all that its product has; False when it is there, raises when something else is."""
    folder = f"releases/{facts.product}/{facts.version}/"
    held = {path: target for path, target in current.items() if path.startswith(folder)}
    if held == wanted:
        return False
    if held:
        raise RefusedError(
            "release-exists",
            f"Version {facts.version} of {facts.product} was signed with other content; give the new one a new version.",
        )
    highest = max((_counter(target) for target in current.values()), default=-1)
    if facts.counter <= highest:
        raise RefusedError(
            "counter-not-rising",
            f"The release counter {facts.counter} must be above {highest}, the highest that was signed for {facts.product}.",
        )
    return True


def _counter(target: TargetFile) -> int:
    counter = target.custom.get("counter") if isinstance(target.custom, dict) else None
    return counter if isinstance(counter, int) else -1


def check_successor(old: Targets, new: Targets, delegation: DelegatedRole, now: float) -> None:
    """What a signature alone does not say: it follows what we have, stays within its paths, and takes nothing back."""
    name = delegation.name
    if not old.version < new.version <= old.version + MAX_VERSION_STEP:
        raise refused(
            f"{name} has version {new.version} and this catalogue has version {old.version}; sign on top of that."
        )
    if new.is_expired(datetime.fromtimestamp(now, UTC)):
        raise RefusedError(ReasonKind.CATALOGUE_EXPIRED, f"{name} expired at {new.expires:%Y-%m-%d}; sign it anew.")
    strays = [path for path in new.targets if not delegation.is_delegated_path(path)]
    if strays:
        raise refused(f"{name} lists {strays[0]}, which is outside its paths.")
    for path, target in old.targets.items():
        if new.targets.get(path) != target:
            raise RefusedError(
                "release-exists", f"{name} removes or changes {path}; what was published stays as it is."
            )

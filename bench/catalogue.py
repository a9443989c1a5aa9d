"""A device's first refresh of a catalogue with 1,000 targets: time and memory, against python-tuf's own client."""

import shutil
import time
from pathlib import Path

from bench.measure import MIB, column, in_process
from bench.plan import Plan
from bench.reports import HARDWARE, PRODUCT
from bench.result import Outcome, against_peer
from firmware.catalogue.ceremony import initialise
from firmware.catalogue.keyfiles import Keyring
from firmware.catalogue.publish import product_role, release_targets, sign
from firmware.manifest import Image, Manifest, encode_manifest

ROUNDS, TARGETS = 7, 1_000
PEER = "tuf.ngclient on the same metadata"


def catalogue(plan: Plan) -> list[Outcome]:
    """Both clients, each time in a new process with an empty store."""
    metadata, last = _published(plan.scratch / "repository", plan.size(TARGETS) // 2)
    rounds = [_round(metadata, plan.scratch / "stores", last) for _ in range(plan.rounds(ROUNDS))]
    ours, theirs = [one["ours"] for one in rounds], [one["ngclient"] for one in rounds]
    name = f"catalogue.refresh.{plan.size(TARGETS)}"
    return [
        against_peer(f"{name}.{what}", unit, "lower", column(ours, key, scale), PEER, column(theirs, key, scale))
        for what, unit, key, scale in (("time", "ms", "seconds", 1e-3), ("peak", "MiB", "peak_bytes", MIB))
    ]


def _round(metadata: Path, stores: Path, path: str) -> dict[str, dict[str, float]]:
    stores.mkdir()
    found = {
        whose: in_process("bench.catalogue_work", whose, metadata, stores / whose, path)
        for whose in ("ours", "ngclient")
    }
    shutil.rmtree(stores)
    return found


def _published(directory: Path, releases: int) -> tuple[Path, str]:
    """A catalogue of so many releases, two targets each; its metadata directory and the last release's manifest path."""
    now = time.time()
    repository = initialise(directory, products=[PRODUCT], now=now)
    role = product_role(PRODUCT)
    targets = repository.targets(role)
    for number in range(1, releases + 1):
        targets.targets.update(release_targets(PRODUCT, _manifest(number)))
    targets.version += 1
    delegations = repository.targets().delegations
    if delegations is None or delegations.roles is None:
        raise RuntimeError("The new catalogue delegates nothing.")
    data = sign(targets, Keyring([directory / "keys" / "offline"]).enough(delegations.roles[role], role))
    repository.accept_product(data, product=PRODUCT, now=now)
    return directory / "metadata", f"releases/{PRODUCT}/1.0.{releases}/manifest.json"


def _manifest(number: int) -> bytes:
    version, digest = f"1.0.{number}", f"{number:064x}"
    path = f"releases/{PRODUCT}/{version}/root.img"
    image = Image(path=path, length=1 << 20, sha256=digest, windows=[digest])
    manifest = Manifest(product=PRODUCT, version=version, counter=number, hardware=[HARDWARE], images=[image])
    return encode_manifest(manifest)

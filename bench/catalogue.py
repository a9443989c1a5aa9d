"""A device's first refresh of a catalogue with 1,000 targets: time and memory, against python-tuf's own client."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.measure import MIB, column, in_process, in_turns
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
    clients = [_client(whose, metadata, plan.scratch, last) for whose in ("ours", "ngclient")]
    ours, theirs = in_turns(plan.rounds(ROUNDS), *clients)
    name = f"catalogue.refresh.{plan.size(TARGETS)}"
    return [
        against_peer(f"{name}.{what}", unit, "lower", column(ours, key, scale), PEER, column(theirs, key, scale))
        for what, unit, key, scale in (("time", "ms", "seconds", 1e-3), ("peak", "MiB", "peak_bytes", MIB))
    ]


def _client(whose: str, metadata: Path, scratch: Path, path: str) -> Callable[[], dict[str, float]]:
    def refresh() -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=scratch) as directory:
            return in_process("bench.catalogue_work", whose, metadata, Path(directory) / "store", path)

    return refresh


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

"""A device's first refresh of a catalogue and one look-up: time and memory, against python-tuf's own client and our limits.

With 1,000 targets in one list, and with 10,000 targets in hash bins and in one list.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.measure import MIB, column, in_process, in_turns
from bench.plan import Plan
from bench.reports import HARDWARE, PRODUCT
from bench.result import Outcome, against_limit, against_peer
from firmware.catalogue.adopt import adopt
from firmware.catalogue.ceremony import initialise
from firmware.catalogue.changes import bins
from firmware.catalogue.keyfiles import Keyring
from firmware.catalogue.publish import Repository, product_role, release_targets, sign
from firmware.manifest import Image, Manifest, encode_manifest

ROUNDS = 7
FEW, MANY, BIN_BITS = 1_000, 10_000, 8
TIME_LIMIT_S, PEAK_LIMIT_MIB = 1.0, 64.0
PEER = "tuf.ngclient on the same metadata"
Rounds = list[list[dict[str, float]]]


def catalogue(plan: Plan) -> list[Outcome]:
    """Both clients, each time in a new process with an empty store."""
    few, many = plan.size(FEW), plan.size(MANY)
    repository, last = _published(plan.scratch / "few", few // 2)
    found = _against_peer(f"catalogue.refresh.{few}", _refreshes(plan, repository, last))
    repository, last = _published(plan.scratch / "many", many // 2)
    found += _against_peer(f"catalogue.refresh.{many}.unbinned", _refreshes(plan, repository, last))
    _put_into_bins(repository)
    name, rounds = f"catalogue.refresh.{many}", _refreshes(plan, repository, last)
    limits: list[Outcome] = [
        against_limit(f"{name}.time", "s", column(rounds[0], "seconds"), TIME_LIMIT_S, f"limit {TIME_LIMIT_S:g} s"),
        against_limit(
            f"{name}.peak", "MiB", column(rounds[0], "peak_bytes", MIB), PEAK_LIMIT_MIB, f"limit {PEAK_LIMIT_MIB:g} MiB"
        ),
    ]
    return found + limits + _against_peer(name, rounds)


def _refreshes(plan: Plan, repository: Repository, path: str) -> Rounds:
    clients = [_client(whose, repository.metadata, plan.scratch, path) for whose in ("ours", "ngclient")]
    return in_turns(plan.rounds(ROUNDS), *clients)


def _against_peer(name: str, rounds: Rounds) -> list[Outcome]:
    ours, theirs = rounds
    return [
        against_peer(f"{name}.{what}", unit, "lower", column(ours, key, scale), PEER, column(theirs, key, scale))
        for what, unit, key, scale in (("time", "ms", "seconds", 1e-3), ("peak", "MiB", "peak_bytes", MIB))
    ]


def _client(whose: str, metadata: Path, scratch: Path, path: str) -> Callable[[], dict[str, float]]:
    def refresh() -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=scratch) as directory:
            return in_process("bench.catalogue_work", whose, metadata, Path(directory) / "store", path)

    return refresh


def _published(directory: Path, releases: int) -> tuple[Repository, str]:
    """A catalogue of so many releases, two targets each, and the path of the last release's manifest."""
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
    return Repository.workspace(directory), f"releases/{PRODUCT}/1.0.{releases}/manifest.json"


def _put_into_bins(repository: Repository) -> None:
    now = time.time()
    proposal = bins(repository, PRODUCT, BIN_BITS, now=now)
    proposal.sign(repository.keyring)
    adopt(repository, proposal, now=now)


def _manifest(number: int) -> bytes:
    version, digest = f"1.0.{number}", f"{number:064x}"
    path = f"releases/{PRODUCT}/{version}/root.img"
    image = Image(path=path, length=1 << 20, sha256=digest, windows=[digest])
    manifest = Manifest(product=PRODUCT, version=version, counter=number, hardware=[HARDWARE], images=[image])
    return encode_manifest(manifest)

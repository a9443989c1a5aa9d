"""`Installer` of a host: the patch set goes into the slot as any image does; then its packages are made ready."""

from collections.abc import Callable

from device_agent.packages.staging import Stager
from device_agent.packages.transaction import Transactions
from device_agent.ports import Installer, Slot, Slots
from firmware.errors import OtariaError
from firmware.manifest import Manifest
from firmware.patch_set import PatchSet, parse_patch_set
from firmware.protocol.order import Order


class PackageInstaller:
    """Over the installer that fetches images, whose checks it keeps."""

    def __init__(self, images: Installer, slots: Slots, transactions: Transactions) -> None:
        self._images, self._slots = images, slots
        self._transactions, self._stager = transactions, Stager(transactions)

    def stage(
        self,
        order: Order,
        manifest: Manifest,
        *,
        active: Slot,
        on_progress: Callable[[int, int], None],
        stop: Callable[[], bool],
        envelope: bytes = b"",
    ) -> dict[str, object]:
        """As the port says; also raises what `Stager.stage` does."""
        slot = active.other
        evidence = self._images.stage(
            order, manifest, active=active, on_progress=lambda done, total: None, stop=stop, envelope=envelope
        )
        wanted = self._read(slot, manifest)
        staged = self._stager.stage(wanted, slot=slot, document=manifest.sha256, stop=stop, on_progress=on_progress)
        packages = {
            "set": len(wanted.packages),
            "changes": len(staged.route.moves),
            "fetched": staged.fetched,
            "kept": staged.kept,
            "repacked": staged.repacked,
            "plan": staged.route.plan,
        }
        return {**evidence, "packages": packages}

    def verify(self, slot: Slot, manifest: Manifest) -> bool:
        """Whether the slot holds the set, and what leads to it is whole."""
        if not self._images.verify(slot, manifest):
            return False
        ledger = self._transactions.ledger
        if slot is ledger.slot:
            return True
        if ledger.way is not None:
            return self._transactions.store.damaged(ledger.way.moves) is None
        try:
            return self._stager.is_staged(slot, manifest.sha256)
        except OtariaError:
            return False

    def _read(self, slot: Slot, manifest: Manifest) -> PatchSet:
        (image,) = manifest.images
        return parse_patch_set(self._slots.read(slot, 0, image.length))

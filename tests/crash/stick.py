"""A device that has no network: its world brings a bundle on a stick, and carries the reports home by it."""

from pathlib import Path
from typing import Any

from device_agent.bundle.bringing import Bundles
from device_agent.bundle.returns import FOLDER, Returns
from device_agent.bundle.shelf import Shelf, StickFile
from device_agent.bundle.source import BundleFirst
from device_agent.core.states import word_of
from device_agent.ports import Catalogue, Source
from firmware.bundle.evidence import address, parse_line
from firmware.bundle.layout import Note
from firmware.bundle.read import Bundle
from firmware.bundle.write import Content, write_bundle
from firmware.errors import OtariaError, UnavailableError
from firmware.manifest import Manifest, encode_manifest, parse_manifest
from firmware.protocol.codec import canonical
from firmware.protocol.order import Counter, FileRef, Span
from firmware.protocol.words import Action
from tests.crash.disk import Disk, Medium
from tests.crash.world import BOARD, ENDED, NOW, Depot, DepotCatalogue, World

STICK = Path("/stick/spring.bundle")
MOST_TRIES = 3
HELD = BOARD.agent / "held.json"


class StickWorld(World):
    """Install the new release with `order()` and `run()`; then `carry_home()` shows the server what came of it."""

    def order(self, **fields: Any) -> None:
        """Sign an order for unattended use and put it on the stick, with its release."""
        span = Span(start=NOW, end=NOW + 86400)
        values = {"unattended": True, "windows": [span], "crit": ["windows"], **fields}
        self.plug_in(self.server.order(Action.INSTALL, self.new, **values))

    def plug_in(self, envelope: bytes) -> None:
        """Put a stick with a bundle of this order into the device."""
        self.depot.down = UnavailableError("unreachable", "There is no network here.")
        note = Note(campaign="c", product="demo", version="2.0", made_at=NOW, usable_until=NOW + 86400, orders=1)
        contents = {
            f"artifacts/{self.new.image_ref.sha256}": self.new.image,
            f"artifacts/{self.new.manifest_ref.sha256}": encode_manifest(self.new.manifest),
            "bundle.json": canonical(note),
            "orders/dev-1.json": envelope,
        }
        self.put_back(b"".join(write_bundle(Content.of(name, contents[name]) for name in sorted(contents))))
        self.answers: list[str | OtariaError] = []

    def pull_out(self) -> bytes:
        """Take the stick away, while the power is off; what was on it."""
        files = dict(self.disk.system.medium("none").files)
        data = files.pop(str(STICK))
        self.replace_machine(Medium(files))
        return data

    def put_back(self, data: bytes) -> None:
        """Put a stick in while the power is off; un-synced writes are lost by that."""
        self.replace_machine(Medium({**self.disk.system.medium("none").files, str(STICK): data}))

    def carry_home(self) -> None:
        """Bring what lies on the stick to the server, which takes each report as from the broker."""
        for path in [path for path in self.disk.files if path.parent == STICK.parent / FOLDER]:
            for line in self.disk.files[path].splitlines():
                topic, envelope = address(parse_line(line))
                self.server.hear(topic, envelope)

    # What a world asks for

    def arrivals(self) -> list[Any]:
        """Nobody is connected. Whoever stands there starts the bundle until the order is taken."""
        runtime = self.runtime
        assert runtime is not None
        if runtime.standing.highest != Counter(epoch=1, n=self.server.n) and STICK in self.disk.files:
            runtime.bring(STICK, self.answers.append)
        return []

    def _advance(self, happened: Any) -> list[Any]:
        """Who stands there tries again when the bundle is not taken."""
        told = len(self.answers)
        came = super()._advance(happened)
        if len(self.answers) > told and isinstance(self.answers[-1], OtariaError) and told < MOST_TRIES:
            assert self.runtime is not None
            self.runtime.bring(STICK, self.answers.append)
        return came

    def settled(self) -> bool:
        """Whether the order has ended."""
        runtime = self.runtime
        if runtime is None or not self.has_stayed_up() or word_of(runtime.standing.state).value not in ENDED:
            return False
        return runtime.standing.highest == Counter(epoch=1, n=self.server.n)

    def catalogue(self) -> Catalogue:
        return HeldCatalogue(self.depot, self.disk)

    def bundles(self) -> tuple[Bundles | None, Source]:
        shelf = Shelf(self.disk, BOARD.agent)
        source = BundleFirst(shelf, self.depot)
        returns = Returns(self.disk, shelf, "dev-1", prepare=lambda folder: None)
        return Bundles(shelf=shelf, returns=returns, forgive=source.forgive), source


class HeldCatalogue(DepotCatalogue):
    """A catalogue that keeps what a bundle brought; without a network it has nothing else. Signatures are others' tests."""

    def __init__(self, depot: Depot, disk: Disk) -> None:
        super().__init__(depot)
        self._disk, self._online = disk, self.manifest
        self.manifest = self._manifest

    def use_held(self, now: float) -> None:
        if self._disk.read(HELD) is None:
            raise UnavailableError("unreachable", "Nothing is held here.")

    def bring(self, path: Path, envelope: bytes, now: float) -> None:
        bundle = Bundle(StickFile(self._disk, path))
        refs = [one.manifest_ref.sha256 for one in self._depot.releases]
        sha256 = next(sha256 for sha256 in refs if bundle.length(sha256) is not None)
        self._disk.replace(HELD, b"".join(bundle.artifact(sha256)))

    def _manifest(self, file: FileRef) -> Manifest:
        held = self._disk.read(HELD)
        return parse_manifest(held) if held is not None else self._online(file)

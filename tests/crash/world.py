"""One device and its server in one thread: the real runtime, installer, slots, boot control and boot loader rules over a disk
that can lose power, with virtual time. The server's side remembers what it saw across cuts, as a real one does."""

import hashlib
import io
import itertools
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner, Signer

from device_agent.boot.control import FileBoot
from device_agent.boot.files import (
    encode_status,
    hear,
    read_request,
    read_state,
    read_status,
    reboot_asked,
    write_state,
)
from device_agent.boot.layout import Board
from device_agent.boot.loader import Boot, LoaderState, decide, encode_state, expire, recover
from device_agent.bundle.bringing import Bundles
from device_agent.core.values import Tuning
from device_agent.identity import Identity
from device_agent.install.stream import StreamInstaller
from device_agent.local.policy import LocalPolicy
from device_agent.notary import KeyNotary
from device_agent.ports import BootStatus, Catalogue, Director, HealthResult, Incoming, Link, Slot, Source
from device_agent.runtime import Connected, Runtime, Settings
from device_agent.slots.files import board_slots
from device_agent.work import Ports
from firmware.checks import Watch
from firmware.contents import ROOT_SET
from firmware.errors import UnavailableError
from firmware.manifest import HealthCheck, Image, Manifest, Requires, describe, encode_manifest
from firmware.protocol.envelope import claimed, open_envelope, seal
from firmware.protocol.order import Counter, FileRef, Order, OrderedImage, ReleaseRef
from firmware.protocol.permit import Ask, Permit, Verdict
from firmware.protocol.report import Ack, Report
from firmware.protocol.unverified import payload_hash
from firmware.protocol.words import Action
from tests.crash.disk import Disk

BOARD = Board(directory=Path("/board"))
CAPACITY = 1 << 18
NOW = 1_790_000_000
IDENTITY = Identity(
    agent="dev-1",
    target="dev-1",
    hardware="board-1",
    mqtt_host="127.0.0.1",
    mqtt_port=1,
    https_url="https://127.0.0.1",
    root_sha256="0" * 64,
)
ENDED = {"committed", "fell_back", "failed", "refused", "cancelled"}


def slot_image(version: str, counter: int) -> bytes:
    """A slot image of about 60 KiB."""
    facts = {"product": "demo", "version": version, "counter": counter, "entry": "app.py"}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        body = hashlib.shake_256(version.encode()).digest(50_000)
        for name, data in (("otaria/slot.json", json.dumps(facts).encode()), ("app.py", body)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def other_image(slot_set: str, version: str) -> bytes:
    """An image for a set that isn't booted, of about 20 KiB; `"same"` as a version gives what every release has."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(f"{slot_set}/{version}")
        info.size = 9_000
        archive.addfile(info, io.BytesIO(hashlib.shake_256(f"{slot_set} {version}".encode()).digest(info.size)))
    return out.getvalue()


@dataclass(frozen=True, kw_only=True)
class Release:
    """A published release with its images, by slot set."""

    manifest: Manifest
    manifest_ref: FileRef
    images: dict[str, bytes]
    refs: dict[str, FileRef]

    @property
    def image(self) -> bytes:
        return self.images[ROOT_SET]

    @property
    def image_ref(self) -> FileRef:
        return self.refs[ROOT_SET]

    @property
    def ordered(self) -> list[OrderedImage]:
        """What an order says about its images."""
        return [OrderedImage(slot=name, file=file) for name, file in self.refs.items()]


def release(
    version: str,
    counter: int,
    *,
    sets: Sequence[str] = (ROOT_SET,),
    unchanged: Sequence[str] = (),
    floor: int = 0,
    min_uptime_s: int = 0,
    requires: Requires | None = None,
    watch: Watch | None = None,
) -> Release:
    """`sets`: the slot sets that it has images for; those `unchanged` are the same in every release."""
    images = {ROOT_SET: slot_image(version, counter)} | {
        name: other_image(name, "same" if name in unchanged else version) for name in sets if name != ROOT_SET
    }
    images = {name: images[name] for name in sets}
    shapes = {name: describe([image]) for name, image in images.items()}
    place = f"releases/demo/{version}"
    refs = {
        name: FileRef(
            path=f"{place}/image" if name == ROOT_SET else f"{place}/{name}.image",
            length=shape.length,
            sha256=shape.sha256,
        )
        for name, shape in shapes.items()
    }
    manifest = Manifest(
        product="demo",
        version=version,
        counter=counter,
        floor=floor,
        hardware=["board-1"],
        images=[
            Image(slot=name, path=ref.path, length=ref.length, sha256=ref.sha256, windows=shapes[name].windows)
            for name, ref in refs.items()
        ],
        health=[HealthCheck(kind="http", url="http://127.0.0.1:{port}/health")],
        min_uptime_s=min_uptime_s,
        requires=requires,
        watch=watch,
    )
    data = encode_manifest(manifest)
    manifest_ref = FileRef(
        path=f"releases/demo/{version}/manifest.json", length=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    return Release(manifest=manifest, manifest_ref=manifest_ref, images=images, refs=refs)


@dataclass
class Depot:
    """Catalogue and source: what is published. `down`: raised instead of an answer, while set."""

    director: Director
    releases: list[Release] = field(default_factory=list)
    down: Exception | None = None
    refreshed: int = 0

    def refresh(self, now: float) -> None:
        self.refreshed += 1
        if self.down:
            raise self.down

    def file(self, path: str) -> FileRef | None:
        refs = [ref for one in self.releases for ref in (one.manifest_ref, *one.refs.values())]
        return next((ref for ref in refs if ref.path == path), None)

    def manifest(self, file: FileRef) -> Manifest:
        for one in self.releases:
            if one.manifest_ref == file:
                return one.manifest
        raise UnavailableError("unreachable", "No such manifest.")

    def open(self, file: FileRef, *, offset: int) -> Iterator[bytes]:
        if self.down:
            raise self.down
        for one in self.releases:
            for name, ref in one.refs.items():
                if ref.sha256 == file.sha256:
                    image = one.images[name]
                    yield from (image[at : at + 16384] for at in range(offset, len(image), 16384))
                    return
        raise UnavailableError("unreachable", "No such artifact.")

    def again(self, file: FileRef, *, wrong: bool) -> bool:
        return False

    def evidence(self) -> dict[str, object]:
        return {}


class DepotCatalogue:
    """`Catalogue` over a depot (whose `director` is a value)."""

    def __init__(self, depot: Depot) -> None:
        self._depot = depot
        self.refresh, self.file, self.manifest = depot.refresh, depot.file, depot.manifest

    def use_held(self, now: float) -> None:
        return

    def bring(self, path: Path, envelope: bytes, now: float) -> None:
        raise AssertionError("there is no stick here")

    def director(self) -> Director:
        return self._depot.director


@dataclass
class Server:
    """What the server keeps: orders out, reports in. Acks and permits are signed; silence can be asked for."""

    signer: Signer
    report_key: Any
    orders: list[bytes] = field(default_factory=list)
    reports: dict[tuple[str, int], str] = field(default_factory=dict)
    told: list[Report] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)
    highest: dict[str, Counter | None] = field(default_factory=dict)
    answer: Callable[[Ask], Verdict] = lambda ask: Verdict.GRANTED
    acking: bool = True
    n: int = 0

    def order(self, action: Action, new: Release | None = None, **fields: Any) -> bytes:
        """Sign the next order and make it the retained one."""
        self.n += 1
        named: dict[str, Any] = {}
        if new is not None:
            ref = ReleaseRef(
                product="demo", version=new.manifest.version, counter=new.manifest.counter, manifest=new.manifest_ref
            )
            named = {"release": ref, "images": new.ordered}
        values = {
            "target": "dev-1",
            "agent": "dev-1",
            "hardware": "board-1",
            "counter": Counter(epoch=1, n=self.n),
            "action": action,
            "change_id": f"change-{self.n}",
            "issued_at": NOW,
            "expires_at": NOW + 86400 * 30,
            "trial_s": 60,
            **named,
            **fields,
        }
        envelope = seal(Order(**values), "order", self.signer)
        self.orders.append(envelope)
        return envelope

    def hear(self, topic: str, payload: bytes) -> list[Incoming]:
        """A published message; the answers."""
        if topic.endswith("/presence") or b"payloadType" not in payload:
            return []
        kind, _ = claimed(payload)
        if kind.endswith("ask.v1+json"):
            return self._asked(open_envelope(payload, "ask", Ask, self.report_key).message)
        return self._reported(open_envelope(payload, "report", Report, self.report_key).message)

    def _asked(self, ask: Ask) -> list[Incoming]:
        self.asks.append(ask)
        verdict = self.answer(ask)
        permit = Permit(
            target=ask.target,
            agent=ask.agent,
            order_hash=ask.order_hash,
            counter=ask.counter,
            boot_id=ask.boot_id,
            nonce=ask.nonce,
            verdict=verdict,
            valid_s=300,
            retry_after_s=20,
            change_id="change-1",
            issued_at=NOW,
        )
        return [Incoming(leaf="permit", target="dev-1", payload=seal(permit, "permit", self.signer))]

    def _reported(self, report: Report) -> list[Incoming]:
        key, digest = (report.journal, report.seq), payload_hash(report)
        known = self.reports.get(key)
        assert known in (None, digest), f"seq {report.seq} came with two different contents"
        if known is None:
            before = (report.journal, report.seq - 1)
            assert report.seq == 1 or before in self.reports, f"a gap before seq {report.seq}"
            self.reports[key] = digest
            self.told.append(report)
            highest = self.highest.get(report.journal)
            assert highest is None or (report.counter is not None and report.counter >= highest)
            self.highest[report.journal] = report.counter or highest
        if not self.acking:
            return []
        ack = Ack(
            target="dev-1",
            agent="dev-1",
            journal=report.journal,
            seq=report.seq,
            report_hash=digest,
            issued_at=NOW,
        )
        return [Incoming(leaf="ack", target="dev-1", payload=seal(ack, "ack", self.signer))]

    def states(self) -> list[str]:
        """The states told by reports about orders, in order."""
        return [report.state.value for report in self.told if report.inventory is None]


@dataclass
class Clock:
    """Virtual monotonic seconds."""

    now: float = 1000.0

    def seconds(self) -> float:
        return self.now


class Chance:
    """Counts instead of rolling dice; the world's, so that no nonce repeats after a cut."""

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def nonce(self) -> str:
        return f"nonce-{next(self._count)}"

    def jitter(self) -> float:
        return 0.5


class Checks:
    """`Health`: the running slot's version decides."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def run(self, checks: Sequence[HealthCheck], *, program_port: int | None, stop: Callable[[], bool]) -> HealthResult:
        version, world = self._world.running_version(), self._world
        healthy = version not in world.faulty and not (version in world.faulty_later and world._state().trial is None)
        return HealthResult(healthy=healthy, text="All is well." if healthy else "GET /health answered 500.")


class Wire:
    """`Link` straight to the server's model; answers are queued for the device."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def start(self, on_message: Callable[[Incoming], None], on_connected: Callable[[bool], None]) -> None:
        raise AssertionError("the world drives the runtime itself")

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        self._world.published.append((topic, payload))
        return True

    def stop(self) -> None:
        return


class World:
    """A device with a server. `run` powers it until the order has ended and every report is acked."""

    def __init__(
        self,
        *,
        faulty: set[str] | None = None,
        runtime: type[Runtime] = Runtime,
        watch: Watch | None = None,
        policy: LocalPolicy | None = None,
        consent: bool = False,
        images: Sequence[str] = (ROOT_SET,),
        unchanged: Sequence[str] = (),
    ) -> None:
        """`watch`: what the new release wants; `policy`: what the device does. Versions in `faulty_later` fail their checks once
        they are committed. `images`: the slot sets of device and releases, such as `("root", "boot", "app")`; those `unchanged`
        are the same in both releases."""
        self.director, self.report_signer = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
        self.runtime_class = runtime
        self.policy = policy or LocalPolicy()
        self.consent = consent
        self.faulty = faulty or set()
        self.faulty_later: set[str] = set()
        self.sets = tuple(images)
        self.old = release("1.0", 1, sets=images, unchanged=unchanged)
        self.new = release("2.0", 2, sets=images, unchanged=unchanged, watch=watch)
        key = self.director.public_key
        self.depot = Depot(Director(epoch=1, keys={key.keyid: key.to_dict()}), [self.old, self.new])
        report_key = self.report_signer.public_key
        self.server = Server(self.director, {report_key.keyid: report_key})
        self.chance, self.published = Chance(), []
        self.boots: list[Boot] = []
        self.disk = Disk(self._fresh_files())
        self.runtime: Runtime | None = None
        self.clock = Clock()

    def _fresh_files(self) -> dict[Path, bytes]:
        files = {BOARD.loader_copies[0]: encode_state(LoaderState())}
        for name, image in self.old.images.items():
            files[BOARD.slot(Slot.A, name)] = image.ljust(CAPACITY, b"\0")
            files[BOARD.slot(Slot.B, name)] = bytes(CAPACITY)
        return files

    # Power

    def run(self, *, max_boots: int = 12, until: Callable[[], bool] | None = None) -> None:
        """Power on, boot after boot. Raises `PowerCut` from the disk; fails when it takes too many boots."""
        for _ in range(max_boots):
            if self._one_boot(until or self.settled):
                return
        raise AssertionError(f"no end after {max_boots} boots: {[boot.outcome.value for boot in self.boots]}")

    def after_cut(self, keep: str) -> None:
        """Replace the machine: only the medium's bytes remain, and the server."""
        self.disk = Disk(self.disk.survivors(keep))
        self.runtime, self.published = None, []

    def settled(self) -> bool:
        """Whether the newest order has ended, as the server knows, and nothing waits in the outbox."""
        runtime = self.runtime
        if runtime is None or runtime.waiting_reports or not self.server.told:
            return False
        last = self.server.told[-1]
        return last.state.value in ENDED and last.counter == Counter(epoch=1, n=self.server.n)

    def running_version(self) -> str:
        data = self.disk.read_at(BOARD.slot(self.boots[-1].slot), 512, 200)
        return str(json.loads(data.rstrip(b"\0"))["version"])

    def holds(self, slot: Slot, what: Release) -> bool:
        """Whether a slot holds a release's image in every set."""
        return all(self.disk.files[BOARD.slot(slot, name)].startswith(image) for name, image in what.images.items())

    # One boot

    def _one_boot(self, ended: Callable[[], bool]) -> bool:
        """Run until the end (True) or a reboot (False)."""
        self.clock = Clock()
        boot, boot_id = self._power_on()
        self.runtime = self._agent()
        self.runtime.start()
        waiting: list[Any] = self.arrivals()
        deadline = None if boot.deadline_s is None else self.clock.now + boot.deadline_s
        for _ in range(400):
            waiting += self._advance(waiting.pop(0) if waiting else None)
            self._hear(boot)
            if reboot_asked(self.disk, BOARD, boot_id):
                return False
            if deadline is not None and self.clock.now >= deadline and self._state().trial is not None:
                write_state(self.disk, BOARD, expire(self._state()))
                return False
            if not waiting and ended():
                return True
        raise AssertionError(f"stuck in {type(self.runtime.standing.state).__name__}")

    def arrivals(self) -> list[Any]:
        """What reaches the agent at the start of a boot."""
        return [Connected(online=True), *self.retained()]

    def powered_agent(self, link: Link) -> Runtime:
        """The agent of a fresh boot on another link, for a loop of its own."""
        self.clock = Clock()
        self._power_on()
        return self._agent(link)

    def _power_on(self) -> tuple[Boot, str]:
        boot, boot_id = self._load(), self.chance.nonce()
        status = BootStatus(
            boot_id=boot_id,
            slot=boot.slot,
            outcome=boot.outcome,
            trial_id=boot.trial_id,
            cause=boot.cause,
            program_port=1,
        )
        self.disk.replace(BOARD.status, encode_status(status))
        return boot, boot_id

    def _load(self) -> Boot:
        state = read_state(self.disk, BOARD) or recover([Slot.A, Slot.B])
        after, boot = decide(state, read_request(self.disk, BOARD))
        write_state(self.disk, BOARD, after)
        self.disk.unlink(BOARD.reboot)
        self.disk.unlink(BOARD.request)
        self.boots.append(boot)
        return boot

    def _hear(self, boot: Boot) -> None:
        state = self._state()
        settled = hear(self.disk, BOARD, state, boot, read_status(self.disk, BOARD).boot_id)
        if settled != state:
            write_state(self.disk, BOARD, settled)

    def _state(self) -> LoaderState:
        state = read_state(self.disk, BOARD)
        assert state is not None
        return state

    def _agent(self, link: Link | None = None) -> Runtime:
        slots = board_slots(self.disk, BOARD.directory)
        bundles, source = self.bundles()
        installer = StreamInstaller(effects=self.disk, slots=slots, source=source, directory=BOARD.agent)
        boot = FileBoot(
            self.disk,
            BOARD.directory,
            monotonic=self.clock.seconds,
            sleep=lambda seconds: self._hear(self.boots[-1]),
        )
        catalogue = self.catalogue()
        ports = Ports(
            effects=self.disk,
            slots=slots,
            boot=boot,
            catalogue=catalogue,
            notary=KeyNotary(catalogue, self.report_signer),
            installer=installer,
            health=Checks(self),
            link=link or Wire(self),
            clock=self.clock,
            chance=self.chance,
            policy=self.policy,
            bundles=bundles,
        )
        tuning = Tuning(clear_first=self.policy.asks_before_activation, consent_required=self.consent)
        settings = Settings(build_time=NOW, tuning=tuning)
        return self.runtime_class(identity=IDENTITY, ports=ports, directory=BOARD.agent, settings=settings)

    def catalogue(self) -> Catalogue:
        """The device's catalogue."""
        return DepotCatalogue(self.depot)

    def bundles(self) -> tuple[Bundles | None, Source]:
        """What it installs from beside the network, and the source of artifacts; see `tests.crash.stick`."""
        return None, self.depot

    def retained(self) -> list[Incoming]:
        return [Incoming(leaf="order", target="dev-1", payload=order) for order in self.server.orders[-1:]]

    def _advance(self, happened: Any) -> list[Any]:
        """Hand one thing to the runtime, or let time pass; what comes of it."""
        runtime = self.runtime
        assert runtime is not None
        if happened is not None:
            runtime.handle(happened)
        else:
            wake = runtime.next_wake()
            self.clock.now = max(self.clock.now, self.clock.now + 5 if wake is None else wake)
        runtime.due()
        out: list[Any] = [job.run() for job in runtime.take_jobs()]
        sent, self.published = self.published, []
        for topic, payload in sent:
            out += self.server.hear(topic, payload)
        return out

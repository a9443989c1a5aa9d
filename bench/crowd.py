"""Devices by the thousand behind one connection: they sign what real ones would, and hear their orders and acks.

The connection is the attacker's of `simulator.hostile`, who may speak on every topic, so that one socket carries what in the
field comes over one for each.
"""

import hashlib
import json
import socket
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, islice

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import SSlibKey

from bench.reports import HARDWARE, NEW_SHA256, PRODUCT, report
from firmware.protocol import topics
from firmware.protocol.codec import canonical
from firmware.protocol.order import Counter
from firmware.protocol.report import REPORT_KIND, Inventory, Report
from firmware.protocol.topics import Leaf, of_target
from firmware.protocol.unverified import payload_type
from firmware.protocol.words import AgentState
from server.ports import AgentRecord, AgentStatus, ReleaseImage, ReleaseRecord, StoredFile, Unit
from simulator.hostile import EVE, HOST
from simulator.wire import packets as wire

SIGNED, PROGRESS = 6, 14
"""What a device says while it downloads and waits for its permit: signed reports, and words of progress between them."""
SITES = 50
NUMBERS = 60_000
TICK_S = 0.01
ORDERS, ACKS = f"{topics.ROOT}/+/+/t/+/{Leaf.ORDER}", f"{topics.ROOT}/+/+/t/+/{Leaf.ACK}"
_TYPE = payload_type(REPORT_KIND)
_HASH = ec.ECDSA(hashes.SHA256())


@dataclass
class Device:
    """One of them. `order`: hash and counter of the order that it holds."""

    name: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    order: tuple[str, Counter] | None = None
    seq: int = 0

    @property
    def public(self) -> SSlibKey:
        return SSlibKey.from_crypto(self.key.public_key())

    def next_report(self, state: AgentState = AgentState.STAGED, *, oldest: int | None = None) -> "Said":
        """About its order; `oldest`: its first report that isn't acked."""
        if self.order is None:
            raise RuntimeError(f"{self.name} has no order to report about.")
        self.seq += 1
        digest, counter = self.order
        words = report(self.name, seq=self.seq, state=state, order_hash=digest, counter=counter, oldest=oldest)
        return self._said(words)

    def introduction(self) -> "Said":
        """Its inventory."""
        self.seq += 1
        facts = Inventory(hardware=HARDWARE, agent_version="1", labels={"slot": "b"})
        return self._said(
            report(self.name, seq=self.seq, state=AgentState.IDLE, order_hash=None, inventory=facts), Leaf.INVENTORY
        )

    def progress(self, done: int) -> "Said":
        """Unsigned."""
        digest = self.order[0] if self.order else None
        words = {"progress": "downloading", "order_hash": digest, "done": done, "total": 1 << 24}
        return Said(topic=of_target(self.name, self.name, Leaf.REPORT), payload=canonical(words), key=None)

    def _said(self, message: Report, leaf: Leaf = Leaf.REPORT) -> "Said":
        topic = of_target(self.name, self.name, leaf)
        words = canonical(message)
        digest = hashlib.sha256(words).hexdigest()
        return Said(topic=topic, payload=self._sealed(words), key=(self.name, self.seq), hash=digest)

    def _sealed(self, payload: bytes) -> bytes:
        pae = b"DSSEv1 %d %b %d %b" % (len(_TYPE), _TYPE.encode(), len(payload), payload)
        signature = {"keyid": self._keyid, "sig": b64encode(self.key.sign(pae, _HASH)).decode()}
        return canonical({"payload": b64encode(payload).decode(), "payloadType": _TYPE, "signatures": [signature]})

    def __post_init__(self) -> None:
        self._keyid = self.public.keyid


@dataclass(frozen=True, kw_only=True)
class Said:
    """A message; `key`: who says it and as which of its reports, None for progress; `hash`: of the report's words."""

    topic: str
    payload: bytes
    key: tuple[str, int] | None
    hash: str = ""


def crowd(number: int) -> list[Device]:
    """So many devices."""
    return [Device(name=name_of(place)) for place in range(number)]


def name_of(place: int) -> str:
    """The id of a device."""
    return f"d-{place:06}"


def enrol(unit: Unit, devices: Sequence[Device]) -> None:
    """Make them and the release known to a server."""
    for place, device in enumerate(devices):
        key = device.public
        record = AgentRecord(
            id=device.name,
            status=AgentStatus.ACTIVE,
            report_keyid=key.keyid,
            report_key=key.to_dict(),
            certificate_serial="1",
            enrolled_at=0.0,
        )
        unit.identities.add_agent(record, hardware=HARDWARE, labels={"site": f"s{place % SITES}"})
    at = f"releases/{PRODUCT}/2.0.0"
    image = ReleaseImage(file=StoredFile(path=f"{at}/root.img", length=1 << 24, sha256=NEW_SHA256))
    manifest = StoredFile(path=f"{at}/manifest.json", length=100, sha256="e" * 64)
    unit.releases.add(
        ReleaseRecord(
            product=PRODUCT, version="2.0.0", counter=2, hardware=(HARDWARE,), manifest=manifest, images=(image,)
        )
    )


def mix(devices: Sequence[Device]) -> list[Said]:
    """One round of what all of them say: 30 in 100 of it signed."""
    return list(islice(endless(devices), len(devices) * (SIGNED + PROGRESS)))


def endless(devices: Sequence[Device]) -> Iterator[Said]:
    """What all of them say again and again, side by side, each in its order and each at another place of it, as a fleet's devices
    are; each signs as it is asked for the next."""
    turns = _turns()
    for step in count():
        for place, device in enumerate(devices):
            yield turns[(step + place) % len(turns)](device)


def _turns() -> list[Callable[[Device], Said]]:
    turns: list[Callable[[Device], Said]] = [
        lambda device: device.introduction(),  # known already: it booted
        lambda device: device.next_report(AgentState.DOWNLOADING),
    ]
    for step in range(PROGRESS):
        turns.append(lambda device, step=step: device.progress((step + 1) << 19))  # type: ignore[misc]
        if step % 4 == 3 and len(turns) - step - 1 < SIGNED:
            turns.append(lambda device: device.next_report())
    while len(turns) < SIGNED + PROGRESS:
        turns.append(lambda device: device.next_report())
    return turns


class Line:
    """The connection. A thread of its own reads: `acked` has when each report's ack came, `on_order` is told each order."""

    def __init__(self, port: int) -> None:
        self.acked: dict[tuple[str, int], float] = {}
        self.orders: dict[str, tuple[str, Counter]] = {}
        self.ordered_at = 0.0
        self.changed = threading.Condition()
        self._number = 0
        self._socket = _link(port)
        self._write = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, messages: Sequence[Said]) -> None:
        """Publish them in this order; signed ones at QoS 1."""
        packets = []
        for said in messages:
            if said.key is not None:
                self._number = self._number % NUMBERS + 1
            packets.append(wire.publish(said.topic, said.payload, number=self._number if said.key else 0))
        with self._write:
            self._socket.sendall(b"".join(packets))

    def send_at(self, messages: Iterable[Said], per_s: float, for_s: float) -> dict[tuple[str, int], float]:
        """Publish at this rate for so long; when each report was sent."""
        sent: dict[tuple[str, int], float] = {}
        began, number, left = time.perf_counter(), 0, iter(messages)
        while (passed := time.perf_counter() - began) < for_s:
            due = int(passed * per_s) - number
            if part := list(islice(left, due)):
                now = time.perf_counter()
                sent.update((said.key, now) for said in part if said.key is not None)
                self.send(part)
                number += len(part)
            time.sleep(TICK_S)
        return sent

    def await_acks(self, keys: Collection[tuple[str, int]], deadline_s: float) -> None:
        """Until each of these reports is acked."""
        self._until(lambda: all(key in self.acked for key in keys), time.monotonic() + deadline_s, "acks")

    def send_through(self, messages: Sequence[Said], *, unacked: int, deadline_s: float, piece: int = 50) -> None:
        """Publish all, never with more than so many reports unacked, and wait for the last ack; raises `RuntimeError`."""
        sent, before = 0, len(self.acked)
        deadline = time.monotonic() + deadline_s
        for place in range(0, len(messages), piece):
            part = messages[place : place + piece]
            sent += sum(1 for said in part if said.key is not None)
            self.send(part)
            self._until(lambda: len(self.acked) - before >= sent - unacked, deadline, "acks")  # noqa: B023
        self._until(lambda: len(self.acked) - before >= sent, deadline, "the last acks")

    def await_orders(self, devices: Sequence[Device], deadline_s: float) -> None:
        """Until each device has its order."""
        self._until(lambda: len(self.orders) >= len(devices), time.monotonic() + deadline_s, "orders")
        for device in devices:
            device.order = self.orders[device.name]

    def close(self) -> None:
        wire.close(self._socket)
        self._reader.join()

    def _until(self, condition: Callable[[], bool], deadline: float, what: str) -> None:
        with self.changed:
            while not condition():
                if not self.changed.wait(timeout=max(0.0, deadline - time.monotonic())) and not condition():
                    raise RuntimeError(f"Waited in vain for {what}: {len(self.acked)} acks, {len(self.orders)} orders.")

    def _read(self) -> None:
        stream = wire.Stream()
        while data := self._receive():
            now, answers = time.perf_counter(), []
            for kind, flags, body in stream.feed(data):
                if kind == wire.PUBLISH:
                    topic, payload, number = wire.message(flags, body)
                    if number:
                        answers.append(wire.puback(number))
                    if payload:
                        self._hear(topic, payload, now)
            if answers:
                with self._write, suppress(OSError):  # closed meanwhile
                    self._socket.sendall(b"".join(answers))
            with self.changed:
                self.changed.notify_all()

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(wire.CHUNK)
        except OSError:
            return b""

    def _hear(self, topic: str, payload: bytes, now: float) -> None:
        said = b64decode(json.loads(payload)["payload"])
        words = json.loads(said)
        if topic.endswith(Leaf.ACK):
            self.acked.setdefault((words["target"], words["seq"]), now)
        elif topic.endswith(Leaf.ORDER) and words["action"] == "install":
            self.orders[words["target"]] = (hashlib.sha256(said).hexdigest(), Counter(**words["counter"]))
            self.ordered_at = now


def _link(port: int) -> socket.socket:
    link = socket.create_connection((HOST, port))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = wire.Stream()
    link.sendall(wire.connect(EVE))
    wire.await_packet(link, stream, wire.CONNACK)
    link.sendall(wire.subscribe(1, ORDERS, ACKS))
    wire.await_packet(link, stream, wire.SUBACK)
    return link

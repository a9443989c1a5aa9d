"""The devices of an exact run: real agents before the same world as on the wire, over cables in memory and one clock."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, Signer

from device_agent.core.values import Tuning
from device_agent.identity import Identity
from device_agent.notary import CatalogueKeys
from device_agent.post import Pace
from device_agent.runtime import Settings
from firmware.protocol.envelope import seal
from firmware.protocol.report import REPORT_KIND, Report, Running
from firmware.protocol.topics import Leaf, of_target
from firmware.protocol.words import AgentState
from simulator.exact.broker import Broker, Cable
from simulator.exact.catalogue import blob_of
from simulator.exact.timeline import Timeline
from simulator.virtual.defects import Defects
from simulator.virtual.device import BOOT_S
from simulator.virtual.world import FACTORY, Member, World
from simulator.wire.cuts import device_of
from simulator.wire.device import Device
from simulator.wire.parts import HASH_BYTES
from simulator.wire.plan import Tempo, Truth
from simulator.wire.ports import Common
from simulator.wire.site import Site

NOWHERE = Path("/nowhere")


def usual_tempo() -> Tempo:
    """What the agent itself uses, where it is not told otherwise."""
    tuning, pace, settings = Tuning(), Pace(), Settings()
    return Tempo(
        boot_s=BOOT_S,
        reconnect_min_s=1.0,
        reconnect_max_s=60.0,
        retry_min_s=tuning.retry_min_s,
        retry_max_s=tuning.retry_max_s,
        ask_min_s=tuning.ask_min_s,
        ask_max_s=tuning.ask_max_s,
        resend_min_s=pace.resend_min_s,
        resend_max_s=pace.resend_max_s,
        refresh_min_s=settings.refresh_min_s,
    )


def report_signer_of(seed: int, member: str) -> Signer:
    """A device's report key, from the run's seed: Ed25519, whose signatures are the same again."""
    secret = hashlib.sha256(f"otaria simulated report key {seed} {member}".encode()).digest()
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(secret))


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """By member's name, the devices; and the keys they sign with."""

    devices: Mapping[str, Device]
    signers: Mapping[str, Signer]

    def each(self, do: Callable[[Device], None]) -> None:
        for device in self.devices.values():
            do(device)

    def copied(self, name: str, *, at: float) -> tuple[str, bytes]:
        """What another device says first that has this one's keys and all that it remembered: the topic, and a report with the
        number of this one's last, of other words."""
        truth = self.devices[name].truth()
        word = Report(
            target=truth.target,
            agent=truth.target,
            journal=truth.journal,
            seq=len(truth.said) // HASH_BYTES,
            oldest=1,
            boot_id="0" * 32,
            at=int(at),
            state=AgentState.IDLE,
            running=Running(slot="A"),
        )
        return of_target(truth.target, truth.target, Leaf.REPORT), seal(word, REPORT_KIND, self.signers[name])

    def truths(self) -> Mapping[str, Truth]:
        """What each device is, by itself."""
        return {name: device.truth() for name, device in self.devices.items()}


def make_fleet(
    world: World,
    members: Mapping[str, Member],
    *,
    seed: int,
    product: str,
    timeline: Timeline,
    broker: Broker,
    site: Site,
    root_sha256: str,
    tempo: Tempo,
    image_bytes: int,
) -> Fleet:
    """Enrolled, and without power yet."""
    signers = {name: report_signer_of(seed, name) for name in members}

    def cable(*, name: str, **given: Any) -> Cable:
        made = Cable(broker, timeline, name=name, **given)
        made.latency_s = members[name].link.latency_s
        return made

    common = Common(
        hub=timeline,
        cable=cable,
        site=site,
        keys=CatalogueKeys(site),
        tempo=tempo,
        factory=blob_of(product, FACTORY, 1, image_bytes),
        product=product,
        defects={release.version: Defects(release, seed) for release in world.releases},
        sizes={release.version: release.size_bytes for release in world.releases},
    )
    devices = {
        name: device_of(member)(
            common,
            member,
            _identity(member, root_sha256),
            NOWHERE,
            signers[name],
            seed=seed,
            begins=world.begins,
        )
        for name, member in members.items()
    }
    return Fleet(devices=devices, signers=signers)


def _identity(member: Member, root_sha256: str) -> Identity:
    return Identity(
        agent=member.id,
        target=member.id,
        hardware=member.hardware,
        mqtt_host="nowhere",
        mqtt_port=8883,
        https_url="https://nowhere",
        root_sha256=root_sha256,
    )

"""Devices that are known before they come: by their key, or by the serial in a certificate from the factory.

An operator uploads them with the labels they will have, a page at a time. A page that says what is known already changes
nothing, so that an upload that broke off is simply made again.
"""

import asyncio
import hashlib
from collections.abc import Sequence

from firmware.errors import RefusedError
from firmware.protocol.enrol_key import Introduction, encode_introduction, parse_introduction
from server.errors import NotFoundError
from server.identity.claims import check_labels
from server.identity.roots import Roots
from server.identity.secrets import new_id
from server.ports import Clock, Database, KnownDevice, Unit

MAX_PAGE = 1000
MAX_SERIAL = 128


class KnownDevices:
    """Takes them in, and says who may enrol again. `url`, `services_ca` and `roots` as for claim tokens."""

    def __init__(self, database: Database, *, url: str, services_ca: str, roots: Roots, clock: Clock) -> None:
        self._database, self._clock = database, clock
        self._url, self._services_ca, self._roots = url, services_ca, roots

    async def introduction(self) -> str:
        """What every known device is given. Raises `RefusedError` (`no-root`)."""
        root = hashlib.sha256(await asyncio.to_thread(self._roots.newest)).hexdigest()
        text = encode_introduction(Introduction(url=self._url, ca=self._services_ca, root=root))
        parse_introduction(text)  # what a device would refuse is never handed out
        return text

    async def add(self, devices: Sequence[KnownDevice], *, by: str) -> int:
        """Store those that are new, all or none of them; returns how many. `id` is chosen here.

        Raises `RefusedError` (`bad-device`, `device-known`).
        """
        if len(devices) > MAX_PAGE:
            raise RefusedError("bad-device", f"At most {MAX_PAGE} devices at once; send them in pages.")
        for device in devices:
            _check(device)
        return await self._database.write(lambda unit: self._store(unit, devices, by))

    async def allow(self, known_id: str, *, by: str, reason: str) -> KnownDevice:
        """Let a device enrol once more with new keys, such as after its flash was erased. What it was enrolled as is revoked when
        it comes. Raises `NotFoundError`, `RefusedError` (`not-enrolled`)."""
        return await self._database.write(lambda unit: self._allow(unit, known_id, by, reason))

    async def remove(self, known_id: str, *, by: str) -> None:
        """Forget a device that has not enrolled. Raises `NotFoundError`, `RefusedError` (`already-enrolled`)."""
        await self._database.write(lambda unit: self._remove(unit, known_id, by))

    def _store(self, unit: Unit, devices: Sequence[KnownDevice], by: str) -> int:
        new = 0
        for device in devices:
            known = unit.identities.known_device(key_sha256=device.key_sha256, serial=device.serial)
            if known is None:
                unit.identities.add_known_device(_owned(device, self._clock.now(), by))
                new += 1
            elif dict(known.labels) != dict(device.labels):
                text = f"{device.name} is known already, as {known.id} and with other labels; remove it first."
                raise RefusedError("device-known", text)
        if new:
            text = f"{by} made {new} device{'s' if new > 1 else ''} known, to enrol without a claim token."
            unit.audit.add(at=self._clock.now(), kind="devices-known", text=text, actor=by, data={"devices": new})
        return new

    def _allow(self, unit: Unit, known_id: str, by: str, reason: str) -> KnownDevice:
        known = _found(unit, known_id)
        if known.agent is None:
            raise RefusedError("not-enrolled", f"{known_id} has not enrolled yet; it needs nobody's leave.")
        unit.identities.allow_known_device(known_id)
        text = f"{by} lets {known.name} enrol again in place of {known.agent}." + (f" {reason}" if reason else "")
        unit.audit.add(at=self._clock.now(), kind="enrolment-allowed", text=text, actor=by, target=known.agent)
        return _found(unit, known_id)

    def _remove(self, unit: Unit, known_id: str, by: str) -> None:
        known = _found(unit, known_id)
        if known.agent is not None:
            text = f"{known_id} has enrolled as {known.agent}; it stays known, or its key could enrol a second device."
            raise RefusedError("already-enrolled", text)
        unit.identities.remove_known_device(known_id)
        text = f"{by} removed the known device {known.name}."
        unit.audit.add(at=self._clock.now(), kind="device-forgotten", text=text, actor=by)


def _check(device: KnownDevice) -> None:
    if (device.key_sha256 is None) == (device.serial is None):
        raise RefusedError("bad-device", "A known device has either a key or a serial; give one of them.")
    if device.serial is not None and not (1 <= len(device.serial) <= MAX_SERIAL and device.serial.isprintable()):
        raise RefusedError("bad-device", f"A serial has 1 to {MAX_SERIAL} printable characters.")
    check_labels(device.labels, "bad-device")


def _owned(device: KnownDevice, now: float, by: str) -> KnownDevice:
    return KnownDevice(
        id=new_id("k"),
        key_sha256=device.key_sha256,
        serial=device.serial,
        labels=dict(device.labels),
        created_at=now,
        created_by=by,
    )


def _found(unit: Unit, known_id: str) -> KnownDevice:
    known = unit.identities.known_device_by_id(known_id)
    if known is None:
        raise NotFoundError(f"There is no known device {known_id}; `otaria fleet known list` shows those there are.")
    return known

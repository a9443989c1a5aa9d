"""Devices that are known before they come, over REST, and the introduction that they all are born with."""

from collections.abc import Sequence
from typing import Annotated, Protocol

from aiohttp import web
from msgspec import Meta, Struct

from firmware.protocol.words import Label, Sha256
from server.http.access import Caller, Need
from server.http.bodies import path_id, read_json, read_query
from server.http.campaigns import Why
from server.http.paging import Paged, after, last_key, paged_reply, place
from server.http.routes import Route, reply
from server.ports import Database, KnownDevice

MAX_ROWS = 1000


class Known(Protocol):
    """Takes devices in, and says who may enrol again. Raises typed errors."""

    async def add(self, devices: Sequence[KnownDevice], *, by: str) -> int: ...
    async def allow(self, known_id: str, *, by: str, reason: str) -> KnownDevice: ...
    async def remove(self, known_id: str, *, by: str) -> None: ...
    async def introduction(self) -> str: ...


class NewKnownDevice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device: `key_sha256`, the sha256 (hex) of the DER of its public key, or `serial`, as its factory certificate says."""

    key_sha256: Sha256 | None = None
    serial: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    labels: Annotated[dict[Annotated[str, Meta(pattern=r"^[a-z][a-z0-9._-]{0,62}\Z")], Label], Meta(max_length=32)] = {}


class NewKnownDevices(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /known-devices`."""

    devices: Annotated[list[NewKnownDevice], Meta(min_length=1, max_length=MAX_ROWS)]


class Added(Struct, frozen=True, kw_only=True):
    """How many were new; the others were known already, with the same labels."""

    added: int


class KnownDeviceShown(Struct, frozen=True, kw_only=True):
    """A known device. `agent`: what it enrolled as. `again`: it may enrol once more, with new keys."""

    id: str
    key_sha256: str | None
    serial: str | None
    labels: dict[str, str]
    agent: str | None
    again: bool
    created_at: float
    created_by: str


class KnownPage(Struct, frozen=True, kw_only=True):
    """A page of known devices, by id."""

    known_devices: list[KnownDeviceShown]
    next: str | None


class Forgotten(Struct, frozen=True, kw_only=True):
    """The id of the device that is known no more."""

    removed: str


class Introduced(Struct, frozen=True, kw_only=True):
    """What a device is given instead of a claim token; no secret."""

    introduction: str


class KnownDeviceRoutes:
    """Handlers about known devices, for administrators."""

    def __init__(self, *, database: Database, known: Known) -> None:
        self._database, self._known = database, known

    def routes(self) -> Sequence[Route]:
        one, need = "/known-devices/{known}", Need.ADMINISTER
        return (
            Route(method="GET", path="/known-devices", need=need, action=self.list, query=Paged, answer=KnownPage),
            Route(method="POST", path="/known-devices", need=need, action=self.add, body=NewKnownDevices, answer=Added),
            Route(
                method="POST",
                path=f"{one}/allow",
                need=need,
                action=self.allow,
                body=Why,
                may_be_left_out=True,
                answer=KnownDeviceShown,
            ),
            Route(method="DELETE", path=one, need=need, action=self.remove, answer=Forgotten),
            Route(method="GET", path="/introduction", need=need, action=self.introduction, answer=Introduced),
        )

    async def list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Devices that may enrol without a claim token, and those that did, by id."""
        paged = read_query(request, Paged)
        begin = str((place(request, paged, str) or ("",))[0])
        found = await self._database.read(lambda unit: unit.identities.known_devices(after=begin, limit=paged.limit))
        following = after(request, last_key(found, paged.limit, lambda known: (known.id,)))
        return paged_reply(request, KnownPage(known_devices=[_shown(known) for known in found], next=following))

    async def add(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Make devices known, all of them or none; those that are known already, with the same labels, change nothing."""
        new = await read_json(request, NewKnownDevices)
        devices = [
            KnownDevice(id="", key_sha256=one.key_sha256, serial=one.serial, labels=one.labels) for one in new.devices
        ]
        return reply(Added(added=await self._known.add(devices, by=caller.name)))

    async def allow(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Let a device that has enrolled do so once more, with new keys; what it was is revoked when it comes."""
        why = await read_json(request, Why) if request.can_read_body else Why()
        return reply(_shown(await self._known.allow(path_id(request, "known"), by=caller.name, reason=why.reason)))

    async def remove(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Forget a device that has not enrolled."""
        known = path_id(request, "known")
        await self._known.remove(known, by=caller.name)
        return reply(Forgotten(removed=known))

    async def introduction(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Where known devices enrol, and whom they trust: the same for all of them, and no secret."""
        return reply(Introduced(introduction=await self._known.introduction()))


def _shown(known: KnownDevice) -> KnownDeviceShown:
    return KnownDeviceShown(**{**vars(known), "labels": dict(known.labels)})

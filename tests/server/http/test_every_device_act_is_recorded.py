"""What devices change through their listener leaves a record in the transaction that changes it: both, or neither.

As `test_every_act_is_recorded` does for people: each route is called while the trail takes no record, and then again.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer
from cryptography.hazmat.primitives.asymmetric import ec

from firmware.protocol.enrol_key import ENROL_KEY_PATH
from firmware.protocol.renew import RENEW_PATH
from server.artifacts import ArtifactStore
from server.campaigns.standing import Step, change_standing
from server.http.devices import DeviceRoutes
from server.identity.enrolment import EnrolmentOverHttp
from server.identity.factory import Factory
from server.identity.key_enrolment import KeyEnrolmentOverHttp, KeyEnrolmentService, ShutOut, key_fingerprint
from server.identity.known_devices import KnownDevices
from server.identity.renewal import RenewalOverHttp
from server.identity.roots import Roots
from server.ports import AgentStatus, KnownDevice
from server.storage.database import SqlDatabase
from tests.databases import fresh_sqlite
from tests.enrolment import Desk, Device, desk_of
from tests.identity_store import SettableClock, clock, only_agent
from tests.renewals import Enrolled
from tests.server.identity.test_known_devices import OTHER, asked
from tests.trail import everything, newest_record, trail_refusing

__all__ = ["clock"]


@dataclass(frozen=True, kw_only=True)
class Listener:
    """The devices' listener on real services."""

    client: TestClient
    desk: Desk
    known: KnownDevices

    async def post(self, path: str, request: msgspec.Struct) -> int:
        async with self.client.post(path, data=msgspec.json.encode(request)) as answer:
            await answer.read()
            return answer.status

    async def neither_or_both(self, path: str, request: Callable[[], msgspec.Struct]) -> None:
        """Refused and without a trace while the trail takes no record; then done and recorded. A challenge is good for one
        attempt, so each has a request of its own."""
        database = self.desk.database
        before = await everything(database)
        async with trail_refusing(database):
            assert await self.post(path, request()) >= 400
        assert await everything(database) == before
        newest = await newest_record(database)
        assert await self.post(path, request()) == 200
        assert await newest_record(database) > newest
        assert await everything(database) != before


@pytest.fixture
async def listener(tmp_path: Path, clock: SettableClock) -> AsyncIterator[Listener]:
    database = SqlDatabase.open(fresh_sqlite(tmp_path / "devices.db"))
    desk = desk_of(database, clock, tmp_path)
    app = DeviceRoutes(
        enrolment=EnrolmentOverHttp(desk.service),
        known=KeyEnrolmentOverHttp(_known_desk(desk)),
        renewal=RenewalOverHttp(desk.renewal),
        database=database,
        artifacts=ArtifactStore(tmp_path / "artifacts"),
        metadata=desk.metadata,
        peer=lambda _: None,
    ).app()
    known = KnownDevices(
        database, url="https://127.0.0.1:1", services_ca=OTHER, roots=Roots(desk.metadata), clock=clock
    )
    async with TestClient(TestServer(app)) as client:
        yield Listener(client=client, desk=desk, known=known)
    await database.close()


def _known_desk(desk: Desk) -> KeyEnrolmentService:
    """As the server has it: who is shut out is so by the same steps as by a person."""

    def step(which: Step) -> ShutOut:
        return lambda unit, agent, reason: change_standing(unit, agent, which, "enrolment", reason, desk.clock.now())

    return KeyEnrolmentService(
        desk.service.admission,
        factory=Factory(),
        challenges=desk.challenges,
        quarantine=step(Step.QUARANTINE),
        revoke=step(Step.REVOKE),
    )


async def test_enrolment_by_a_claim_token(listener: Listener) -> None:
    claim, device = await listener.desk.claim(), Device.new()
    await listener.neither_or_both("/v1/enrol", lambda: device.request(claim))
    (kept,) = await listener.desk.database.read(lambda unit: unit.identities.claims())
    assert kept.uses_left == 0


async def test_enrolment_by_a_key_that_was_known_before(listener: Listener) -> None:
    own = ec.generate_private_key(ec.SECP256R1())
    await listener.known.add([KnownDevice(id="", key_sha256=key_fingerprint(own.public_key()))], by="anna")
    device = Device.new()
    await listener.neither_or_both(ENROL_KEY_PATH, lambda: asked(listener.desk, own, device))


async def test_a_copy_of_a_known_device_is_put_into_quarantine_or_nothing_is_said_of_it(listener: Listener) -> None:
    """The request is refused in any case; what it does to the agent that it copies is an act."""
    own, database = ec.generate_private_key(ec.SECP256R1()), listener.desk.database
    await listener.known.add([KnownDevice(id="", key_sha256=key_fingerprint(own.public_key()))], by="anna")
    assert await listener.post(ENROL_KEY_PATH, asked(listener.desk, own, Device.new())) == 200
    (one,) = await database.read(lambda unit: unit.identities.known_devices())
    before, newest = await everything(database), await newest_record(database)
    async with trail_refusing(database):
        assert await listener.post(ENROL_KEY_PATH, asked(listener.desk, own, Device.new())) >= 400
    assert await everything(database) == before
    assert await listener.post(ENROL_KEY_PATH, asked(listener.desk, own, Device.new())) >= 400
    assert await newest_record(database) > newest
    assert (await only_agent(database, one.agent or "")).status is AgentStatus.QUARANTINED


async def test_renewal(listener: Listener) -> None:
    enrolled = await Enrolled.at(listener.desk)
    before = await only_agent(listener.desk.database, enrolled.agent)
    await listener.neither_or_both(RENEW_PATH, enrolled.request)
    after = await only_agent(listener.desk.database, enrolled.agent)
    assert after.certificate_serial != before.certificate_serial


async def test_these_are_all_the_routes_by_which_devices_change_something(listener: Listener) -> None:
    routes = listener.client.server.app.router.routes()
    found = {route.resource.canonical for route in routes if route.resource and route.method not in ("GET", "HEAD")}
    assert found == {"/v1/enrol", ENROL_KEY_PATH, RENEW_PATH}

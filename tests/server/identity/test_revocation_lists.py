"""The revocation lists: who stands in them, and how one sees that nobody signs them any more."""

from pathlib import Path

import pytest

from server.identity.authorities_service import AuthoritiesService
from server.identity.authority import Authorities
from server.identity.revocation import OLD_S, RENEW_S, Revocations, list_state, revoked_in
from server.ports import AgentStatus
from server.storage.database import SqlDatabase
from server.ui.attention import list_needs
from tests.enrolment import Desk, Device, desk_of
from tests.identity_store import SettableClock, clock

__all__ = ["clock"]


@pytest.fixture
def desk(clock: SettableClock, tmp_path: Path) -> Desk:
    return desk_of(SqlDatabase.open(f"sqlite:///{tmp_path / 'test.db'}"), clock, tmp_path)


async def test_quarantined_and_revoked_are_listed_until_released(desk: Desk) -> None:
    claim = await desk.claim(uses=3)
    quarantined, revoked, _ = [(await desk.service.enrol(Device.new().request(claim))).agent for _ in range(3)]
    lists, file = Revocations(desk.database, desk.authorities, clock=desk.clock), desk.authorities.revocation_file

    async def stands(agent: str, status: AgentStatus) -> None:
        await desk.database.write(lambda unit: unit.identities.set_agent_status(agent, status))

    await lists.write()
    assert not await lists.write()
    await stands(quarantined, AgentStatus.QUARANTINED)
    await stands(revoked, AgentStatus.REVOKED)
    assert await lists.write()
    assert len(revoked_in(file)) == 2
    await stands(quarantined, AgentStatus.ACTIVE)
    assert await lists.write()
    assert len(revoked_in(file)) == 1
    await desk.database.close()


async def test_lists_are_signed_daily_and_old_ones_need_somebody(desk: Desk) -> None:
    lists, file = Revocations(desk.database, desk.authorities, clock=desk.clock), desk.authorities.revocation_file
    await lists.write()
    desk.clock.time += RENEW_S - 1
    assert not await lists.write()
    desk.clock.time += 1
    assert await lists.write()
    made_at = desk.clock.now()
    desk.clock.time += OLD_S
    assert list_needs(list_state(file, desk.clock.now()), desk.clock.now()) == []
    desk.clock.time += 1
    (need,) = list_needs(list_state(file, desk.clock.now()), desk.clock.now())
    assert "2 d ago" in need.text
    service = AuthoritiesService(desk.database, desk.authorities.directory, in_force=frozenset(), clock=desk.clock)
    shown = (await service.show()).revocation_lists
    assert (shown.made_at, shown.revoked, shown.is_old) == (made_at, 0, True)
    file.write_bytes(b"cut off")
    (need,) = list_needs(await service.lists(), desk.clock.now())
    assert "can't be read" in need.text
    assert await lists.write()
    assert not (await service.lists()).is_old
    await desk.database.close()


def test_a_new_installation_has_fresh_lists(tmp_path: Path, clock: SettableClock) -> None:
    made = Authorities.open_or_create(tmp_path / "identity", clock=clock.now)
    assert list_state(made.revocation_file, clock.now()).made_at == clock.now()

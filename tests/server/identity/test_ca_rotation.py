"""Replacing the CAs: crash-safe files, an overlap, and refusals while devices depend on what would end."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from firmware.errors import RefusedError
from server.identity import authority_files, private_files
from server.identity.authorities_service import AuthoritiesService, CaStep, CasView, Kind
from server.identity.authority import Authorities
from server.identity.authority_files import load_certificates
from server.identity.enrolment import noted
from server.identity.revocation import Revocations, revoked_in
from server.identity.rotation import Rotation
from server.ports import AgentStatus
from server.storage.database import SqlDatabase
from tests.brokers import csr_of
from tests.identity_store import SettableClock
from tests.people_side import add_device

NOW = 1_800_000_000.0


def opened(directory: Path) -> Authorities:
    return Authorities.open_or_create(directory, clock=lambda: NOW)


def test_a_new_fleet_ca_signs_and_the_old_one_is_accepted(tmp_path: Path) -> None:
    before = opened(tmp_path)
    Rotation(directory=tmp_path).rotate_fleet(NOW)
    after = opened(tmp_path)
    assert after.fleet.fingerprint != before.fleet.fingerprint
    assert [old.fingerprint for old in after.accepted] == [before.fleet.fingerprint]
    assert after.services.fingerprint == before.services.fingerprint
    accepted = {authority_files.fingerprint_of(one) for one in load_certificates(after.broker_for_agents.ca)}
    assert accepted == {before.fleet.fingerprint, after.fleet.fingerprint}
    made = after.sign_agent(csr_of(ec.generate_private_key(ec.SECP256R1())), "d-aaaaaaaaaa")
    assert made.issuer == after.fleet.fingerprint


def test_a_retired_fleet_ca_opens_nothing_and_its_key_is_gone(tmp_path: Path) -> None:
    old = opened(tmp_path).fleet
    rotation = Rotation(directory=tmp_path)
    with pytest.raises(RefusedError):
        rotation.retire_fleet()
    rotation.rotate_fleet(NOW)
    keys = set(tmp_path.glob("fleet-ca*.key"))
    rotation.retire_fleet()
    after = opened(tmp_path)
    assert load_certificates(after.broker_for_agents.ca) == [after.fleet.certificate]
    assert after.issuers == (after.fleet.certificate, old.certificate)
    assert len(keys) == 2
    assert set(tmp_path.glob("fleet-ca*.key")) == {tmp_path / "fleet-ca.key"}


def test_old_cas_do_not_pile_up(tmp_path: Path) -> None:
    opened(tmp_path)
    for _ in range(authority_files.MAX_ACCEPTED):
        Rotation(directory=tmp_path).rotate_fleet(NOW)
    with pytest.raises(RefusedError) as caught:
        Rotation(directory=tmp_path).rotate_fleet(NOW)
    assert caught.value.kind == "too-many-cas"


def test_the_next_services_ca_signs_nothing_before_the_switch(tmp_path: Path) -> None:
    before, rotation = opened(tmp_path), Rotation(directory=tmp_path)
    pem = rotation.prepare_services(NOW)
    assert rotation.prepare_services(NOW) == pem
    between = opened(tmp_path)
    assert between.services.fingerprint == before.services.fingerprint
    assert between.next_services is not None
    assert between.next_services.pem == pem
    rotation.switch_services()
    after = opened(tmp_path)
    assert (after.services.pem, after.next_services) == (pem, None)
    for leaf in (after.https_for_devices, after.broker_for_agents, after.mqtt_client):
        load_certificates(leaf.certificate)[0].verify_directly_issued_by(after.services.certificate)
    assert len(load_certificates(after.services_ca_file)) == 2
    rotation.retire_services()
    assert load_certificates(after.services_ca_file) == [after.services.certificate]
    with pytest.raises(RefusedError) as caught:
        rotation.switch_services()
    assert caught.value.kind == "no-next-ca"


class _CutError(BaseException):
    """The process is gone."""


@contextmanager
def cut_at(k: int) -> Iterator[None]:
    """The k-th change of a private file does not happen any more."""
    left = k
    real = private_files.move_private

    def counted(source: Path, path: Path) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            raise _CutError
        real(source, path)

    with (
        mock.patch.object(private_files, "move_private", counted),
        mock.patch.object(authority_files, "move_private", counted),
    ):
        yield


@pytest.mark.parametrize("step", ["rotate_fleet", "switch_services"])
def test_a_crash_at_any_file_leaves_authorities_that_open(tmp_path: Path, step: str) -> None:
    first = tmp_path / "first"
    opened(first)
    Rotation(directory=first).prepare_services(NOW)
    for k in range(1, 12):
        directory = tmp_path / f"crash-{k}"
        shutil.copytree(first, directory)
        rotation = Rotation(directory=directory)
        try:
            with cut_at(k):
                rotation.rotate_fleet(NOW) if step == "rotate_fleet" else rotation.switch_services()
        except _CutError:
            opened(directory)
            if step == "switch_services" and opened(directory).next_services is not None:
                rotation.switch_services()
            assert not list(directory.glob("*.key.next"))
            opened(directory)
        else:
            break
    assert k >= 4


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NOW)


async def test_people_see_who_depends_on_which_ca_and_are_held_back(tmp_path: Path, clock: SettableClock) -> None:
    directory, database = tmp_path / "identity", SqlDatabase.open(f"sqlite:///{tmp_path / 'cas.db'}")
    try:
        old = opened(directory)

        def service() -> AuthoritiesService:
            return AuthoritiesService(database, directory, in_force=opened(directory).fingerprints, clock=clock)

        await database.write(lambda unit: [add_device(unit, name, {}) for name in ("d-a", "d-b", "d-c")])
        key = ec.generate_private_key(ec.SECP256R1())
        made = old.sign_agent(csr_of(key), "d-a")
        await database.write(lambda unit: unit.identities.add_certificate(noted(made, "d-a")))
        await database.write(lambda unit: unit.identities.set_agent_status("d-c", AgentStatus.DECOMMISSIONED))

        desk = service()
        assert by_standing(await desk.show()) == {"signs": 2}
        rotated = await desk.step(Kind.FLEET, CaStep.ROTATE, by="anna", force=False)
        assert (by_standing(rotated), rotated.restart_needed) == ({"signs": 0, "accepted": 2}, True)
        with pytest.raises(RefusedError) as early:
            await desk.step(Kind.FLEET, CaStep.RETIRE, by="anna", force=True)
        assert early.value.kind == "restart-first"

        desk = service()
        assert not (await desk.show()).restart_needed
        with pytest.raises(RefusedError, match="2 targets still have certificates") as caught:
            await desk.step(Kind.FLEET, CaStep.RETIRE, by="anna", force=False)
        assert caught.value.kind == "ca-in-use"
        for name in ("d-a", "d-b"):
            renewed = opened(directory).sign_agent(csr_of(ec.generate_private_key(ec.SECP256R1())), name)
            await database.write(lambda unit, r=renewed, n=name: unit.identities.add_certificate(noted(r, n)))  # type: ignore[misc]
        await desk.step(Kind.FLEET, CaStep.RETIRE, by="anna", force=False)
        lines = await database.read(lambda unit: unit.audit.latest(limit=2))
        assert [line.kind for line in lines] == ["ca-retire", "ca-rotate"]
    finally:
        await database.close()


async def test_the_services_ca_is_not_switched_before_devices_trust_the_next(
    tmp_path: Path, clock: SettableClock
) -> None:
    directory, database = tmp_path / "identity", SqlDatabase.open(f"sqlite:///{tmp_path / 'cas.db'}")
    try:
        opened(directory)
        await database.write(lambda unit: [add_device(unit, name, {}) for name in ("d-a", "d-b")])
        desk = AuthoritiesService(database, directory, in_force=opened(directory).fingerprints, clock=clock)
        view = await desk.step(Kind.SERVICES, CaStep.ROTATE, by="anna", force=False)
        upcoming = next(ca.fingerprint for ca in view.cas if ca.standing == "next")
        said = [upcoming, "0" * 64]
        await database.write(lambda unit: unit.fleet.set_way("d-a", endpoint="https://here", services_cas=said))
        with pytest.raises(RefusedError, match="1 target has not said"):
            await desk.step(Kind.SERVICES, CaStep.SWITCH, by="anna", force=False)
        await database.write(lambda unit: unit.fleet.set_way("d-b", endpoint="https://here", services_cas=said[:1]))
        await desk.step(Kind.SERVICES, CaStep.SWITCH, by="anna", force=False)
        found = await database.read(lambda unit: unit.fleet.endpoints())
        assert dict(found) == {"https://here": 2}
    finally:
        await database.close()


async def test_the_revocation_lists_name_who_is_shut_out(tmp_path: Path, clock: SettableClock) -> None:
    database = SqlDatabase.open(f"sqlite:///{tmp_path / 'crl.db'}")
    try:
        authorities = opened(tmp_path / "identity")
        assert revoked_in(authorities.revocation_file) == frozenset()
        serials = {}
        for name in ("d-a", "d-b"):
            made = authorities.sign_agent(csr_of(ec.generate_private_key(ec.SECP256R1())), name)
            serials[name] = int(made.serial, 16)
            await database.write(lambda unit, n=name: add_device(unit, n, {}))  # type: ignore[misc]
            await database.write(lambda unit, m=made, n=name: unit.identities.add_certificate(noted(m, n)))  # type: ignore[misc]
        lists = Revocations(database, authorities, clock=clock)
        assert not await lists.write()
        await database.write(lambda unit: unit.identities.set_agent_status("d-a", AgentStatus.REVOKED))
        assert await lists.write()
        assert revoked_in(authorities.revocation_file) == {serials["d-a"]}
        assert not await lists.write()
        Rotation(directory=tmp_path / "identity").rotate_fleet(NOW)
        after = opened(tmp_path / "identity")
        assert await Revocations(database, after, clock=clock).write()
        assert after.revocation_file.read_bytes().count(b"BEGIN X509 CRL") == 2
    finally:
        await database.close()


def by_standing(view: CasView) -> dict[str, int]:
    return {ca.standing: ca.targets for ca in view.cas if ca.kind is Kind.FLEET}

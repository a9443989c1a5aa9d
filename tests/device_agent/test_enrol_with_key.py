"""A device that was born with a key enrols over TLS, against the real listener; copies of it don't."""

import asyncio
import hashlib
from pathlib import Path

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from device_agent.cli import run
from device_agent.enrol import enrol_with_key
from device_agent.identity import load_identity
from firmware.errors import RefusedError
from firmware.protocol.enrol_key import Introduction, encode_introduction
from server.artifacts import ArtifactStore
from server.http.devices import DeviceRoutes, tls_peer
from server.identity.enrolment import EnrolmentOverHttp
from server.identity.factory import Factory
from server.identity.key_enrolment import KeyEnrolmentOverHttp, key_fingerprint
from server.identity.renewal import RenewalOverHttp
from server.ports import KnownDevice
from tests.brokers import key_pem
from tests.device_agent.test_enrol_device import served
from tests.enrolment import HARDWARE, ROOT_1, Desk, desk_of, known_desk
from tests.factories import FactoryCa
from tests.identity_store import MemoryDatabase, SettableClock


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "server").mkdir()
    return desk_of(MemoryDatabase(), SettableClock(), tmp_path / "server")


def listener(desk: Desk, directory: Path, factory: Factory | None = None) -> web.Application:
    return DeviceRoutes(
        enrolment=EnrolmentOverHttp(desk.service),
        known=KeyEnrolmentOverHttp(known_desk(desk, factory)),
        renewal=RenewalOverHttp(desk.renewal),
        database=desk.database,
        artifacts=ArtifactStore(directory / "artifacts"),
        metadata=desk.metadata,
        peer=tls_peer,
    ).app()


def introduction(desk: Desk, url: str, *, ca: str = "") -> str:
    root = hashlib.sha256(ROOT_1).hexdigest()
    return encode_introduction(Introduction(url=url, ca=ca or desk.authorities.services.fingerprint, root=root))


@pytest.mark.parametrize(
    ("agent", "told"),
    [("agent", "start it with `otaria-agent --dir {0}/agent run`."), ("site/boxes/core-1", "{0}/site run`.")],
)
async def test_a_device_with_a_known_key_enrols_by_the_command(
    agent: str, told: str, desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says who starts it: a box's agent is taken along by its site agent."""
    own = ec.generate_private_key(ec.SECP256R1())
    device = KnownDevice(id="k-1", key_sha256=key_fingerprint(own.public_key()), labels={"site": "rome"})
    await desk.database.write(lambda unit: unit.identities.add_known_device(device))
    (tmp_path / "device.key").write_bytes(key_pem(own))
    async with served(listener(desk, tmp_path), desk.authorities.https_for_devices) as url:
        (tmp_path / "intro.txt").write_text(introduction(desk, url))
        words = ["enrol", "--introduction", f"@{tmp_path}/intro.txt", "--key", f"{tmp_path}/device.key"]
        arguments = ["--dir", str(tmp_path / agent), *words, "--hardware", HARDWARE]
        assert await asyncio.to_thread(run, arguments) == 0
    assert capsys.readouterr().out.endswith(f"{told.format(tmp_path)}\n")
    identity = load_identity(tmp_path / agent)
    known = await desk.database.read(lambda unit: unit.identities.known_device_by_id("k-1"))
    assert known is not None
    assert known.agent == identity.agent
    assert not [path for path in (tmp_path / agent).iterdir() if key_pem(own) in path.read_bytes()]


async def test_a_copied_flash_is_noticed(desk: Desk, tmp_path: Path) -> None:
    own, factory = ec.generate_private_key(ec.SECP256R1()), FactoryCa.make(desk.clock.now())
    shown = factory.chain(own, desk.clock.now())
    believed = Factory(roots=[factory.certificate], admits_unlisted=True)

    async with served(listener(desk, tmp_path, believed), desk.authorities.https_for_devices) as url:

        async def enrolled(name: str) -> str:
            words = (introduction(desk, url), key_pem(own), HARDWARE)
            return (await asyncio.to_thread(enrol_with_key, tmp_path / name, *words, certificates=shown)).agent

        first = await enrolled("first")
        with pytest.raises(RefusedError) as caught:
            await enrolled("copy")
    assert caught.value.kind == "device-copied"
    assert first in caught.value.text


async def test_nothing_is_signed_for_a_server_that_is_not_pinned(desk: Desk, tmp_path: Path) -> None:
    own = key_pem(ec.generate_private_key(ec.SECP256R1()))
    async with served(listener(desk, tmp_path), desk.authorities.https_for_devices) as url:
        word = introduction(desk, url, ca="0" * 64)
        with pytest.raises(RefusedError) as caught:
            await asyncio.to_thread(enrol_with_key, tmp_path / "agent", word, own, HARDWARE)
    assert caught.value.kind == "wrong-pin"
    for bad in ("oti1.", "otc1.abc", f"{word}x", word[:-4]):
        with pytest.raises(RefusedError) as caught:
            enrol_with_key(tmp_path / "agent", bad, own, HARDWARE)
        assert caught.value.kind == "introduction-malformed"
    with pytest.raises(RefusedError) as caught:
        enrol_with_key(tmp_path / "agent", word, b"no key", HARDWARE)
    assert caught.value.kind == "bad-key"

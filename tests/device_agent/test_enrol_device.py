"""Enrolment seen from the device, against the real listener and against servers that lie."""

import asyncio
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from device_agent.effects import FileEffects
from device_agent.enrol import PENDING_FILE, enrol
from device_agent.identity import Identity, load_identity
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.protocol.enrol import Claim, encode_claim
from server.artifacts import ArtifactStore
from server.http.devices import DeviceRoutes, tls_peer
from server.http.tls import devices_context
from server.identity.authority import Authorities, TlsFiles
from server.identity.enrolment import EnrolmentOverHttp
from server.identity.key_enrolment import KeyEnrolmentOverHttp
from server.identity.renewal import RenewalOverHttp
from tests.brokers import csr_of
from tests.enrolment import HARDWARE, ROOT_1, Desk, desk_of, known_desk
from tests.identity_store import MemoryDatabase, SettableClock

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "server").mkdir()
    return desk_of(MemoryDatabase(), SettableClock(), tmp_path / "server")


@asynccontextmanager
async def served(app: web.Application, tls: TlsFiles) -> AsyncIterator[str]:
    """The app over TLS on a free port; gives its URL."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=devices_context(tls))
    await site.start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def honest(desk: Desk, directory: Path) -> web.Application:
    routes = DeviceRoutes(
        enrolment=EnrolmentOverHttp(desk.service),
        known=KeyEnrolmentOverHttp(known_desk(desk)),
        renewal=RenewalOverHttp(desk.renewal),
        database=desk.database,
        artifacts=ArtifactStore(directory / "artifacts"),
        metadata=desk.metadata,
        peer=tls_peer,
    )
    return routes.app()


def lying(desk: Desk, *, ca: bytes | None = None, answer: Handler | None = None) -> web.Application:
    """An app that shows a CA and answers the request as told; it counts what it is sent."""
    app = web.Application()
    app[SENT] = []

    async def show(request: web.Request) -> web.StreamResponse:
        return web.Response(body=desk.authorities.services.pem if ca is None else ca)

    async def take(request: web.Request) -> web.StreamResponse:
        app[SENT].append(await request.read())
        return await answer(request) if answer else web.Response(status=500)

    app.router.add_get("/v1/enrol/ca", show)
    app.router.add_post("/v1/enrol", take)
    return app


SENT = web.AppKey("sent", list)


async def claim_for(desk: Desk, url: str, **changes: Any) -> str:
    claim = await desk.claim(**changes)
    return encode_claim(msgspec.structs.replace(claim, url=url))


async def on_device(directory: Path, claim: str, **more: Any) -> Identity:
    return await asyncio.to_thread(
        lambda: enrol(directory, claim, HARDWARE, timeout_s=more.pop("timeout_s", 10.0), **more)
    )


async def failure(directory: Path, claim: str, **more: Any) -> OtariaError:
    """The error of an enrolment that must fail and leave no identity behind."""
    with pytest.raises(OtariaError) as caught:
        await on_device(directory, claim, **more)
    assert not (directory / "identity.json").exists()
    return caught.value


async def test_a_device_enrols_and_holds_everything_it_needs(desk: Desk, tmp_path: Path) -> None:
    device = tmp_path / "device" / "agent"
    async with served(honest(desk, tmp_path), desk.authorities.https_for_devices) as url:
        identity = await on_device(device, await claim_for(desk, url))
    assert load_identity(device) == identity
    assert (identity.hardware, identity.mqtt_host, identity.mqtt_port) == (HARDWARE, "127.0.0.1", 8883)
    names = {"tls.key", "tls.crt", "report.key", "services-ca.pem", "fleet-ca.pem", "root.json", "identity.json"}
    assert {path.name for path in device.iterdir()} == names
    assert {stat.S_IMODE(path.stat().st_mode) for path in device.iterdir()} == {0o600}
    assert (device / "root.json").read_bytes() == ROOT_1
    assert (device / "services-ca.pem").read_bytes() == desk.authorities.services.pem
    certificate = x509.load_pem_x509_certificate((device / "tls.crt").read_bytes())
    key = serialization.load_pem_private_key((device / "tls.key").read_bytes(), password=None)
    assert certificate.public_key() == key.public_key()


async def test_an_enrolled_directory_is_left_alone(desk: Desk, tmp_path: Path) -> None:
    async with served(honest(desk, tmp_path), desk.authorities.https_for_devices) as url:
        await on_device(tmp_path / "device", await claim_for(desk, url))
        before = {path.name: path.read_bytes() for path in (tmp_path / "device").iterdir()}
        with pytest.raises(RefusedError) as caught:
            await on_device(tmp_path / "device", await claim_for(desk, url))
    assert caught.value.kind == "already-enrolled"
    assert {path.name: path.read_bytes() for path in (tmp_path / "device").iterdir()} == before


async def test_a_server_with_another_ca_learns_nothing(desk: Desk, tmp_path: Path) -> None:
    """The pin is checked before the secret leaves the device."""
    foreign = Authorities.open_or_create(tmp_path / "foreign")
    app = lying(desk, ca=foreign.services.pem)
    async with served(app, foreign.https_for_devices) as url:
        error = await failure(tmp_path / "device", await claim_for(desk, url))
    assert (error.kind, app[SENT]) == ("wrong-pin", [])


async def test_a_man_in_the_middle_who_shows_the_right_ca_learns_nothing(desk: Desk, tmp_path: Path) -> None:
    """The CA is public; only a certificate signed by it counts."""
    foreign = Authorities.open_or_create(tmp_path / "foreign")
    app = lying(desk)
    async with served(app, foreign.https_for_devices) as url:
        error = await failure(tmp_path / "device", await claim_for(desk, url))
    assert (error.kind, app[SENT]) == ("wrong-server", [])


async def test_the_right_ca_among_others_is_not_enough(desk: Desk, tmp_path: Path) -> None:
    foreign = Authorities.open_or_create(tmp_path / "foreign")
    app = lying(desk, ca=desk.authorities.services.pem + foreign.services.pem)
    async with served(app, foreign.https_for_devices) as url:
        error = await failure(tmp_path / "device", await claim_for(desk, url))
    assert (error.kind, app[SENT]) == ("wrong-pin", [])


async def test_a_clock_that_is_years_off_does_not_stop_a_new_device(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    past = SettableClock(now=1_000_000_000.0)  # its certificates expired long ago by this machine's clock
    desk = desk_of(MemoryDatabase(), past, tmp_path / "server")
    async with served(honest(desk, tmp_path), desk.authorities.https_for_devices) as url:
        assert (await on_device(tmp_path / "device", await claim_for(desk, url))).hardware == HARDWARE


async def test_spent_and_expired_tokens_are_told_in_the_servers_words(desk: Desk, tmp_path: Path) -> None:
    async with served(honest(desk, tmp_path), desk.authorities.https_for_devices) as url:
        spent = await claim_for(desk, url)
        await on_device(tmp_path / "first", spent)
        error = await failure(tmp_path / "second", spent)
        assert (error.kind, "ask" in error.text or "used" in error.text) == ("claim-used-up", True)
        late = await claim_for(desk, url, expires_s=60)
        desk.clock.time += 61
        assert (await failure(tmp_path / "third", late)).kind == "claim-expired"


async def test_a_lost_answer_is_retried_with_the_same_keys_and_the_same_agent(desk: Desk, tmp_path: Path) -> None:
    real = EnrolmentOverHttp(desk.service)
    given: list[str] = []

    async def enrols_and_loses_the_answer(request: web.Request) -> web.StreamResponse:
        given.append((await real.enrol(await request.json()))["agent"])
        raise ConnectionResetError

    device = tmp_path / "device"
    async with served(lying(desk, answer=enrols_and_loses_the_answer), desk.authorities.https_for_devices) as url:
        claim = await desk.claim()
        error = await failure(device, encode_claim(msgspec.structs.replace(claim, url=url)))
        assert isinstance(error, UnavailableError)
        keys = {name: (device / name).read_bytes() for name in ("tls.key", "report.key", PENDING_FILE)}
    async with served(honest(desk, tmp_path), desk.authorities.https_for_devices) as url:
        identity = await on_device(device, encode_claim(msgspec.structs.replace(claim, url=url)))
    assert [identity.agent] == given
    assert (device / "tls.key").read_bytes() == keys["tls.key"]
    assert (device / "report.key").read_bytes() == keys["report.key"]
    assert not (device / PENDING_FILE).exists()


async def test_another_token_after_a_lost_answer_starts_with_new_keys(desk: Desk, tmp_path: Path) -> None:
    async with served(lying(desk), desk.authorities.https_for_devices) as url:
        assert (await failure(tmp_path / "device", await claim_for(desk, url))).kind == "bad-answer"
        old = (tmp_path / "device" / "report.key").read_bytes()
    async with served(honest(desk, tmp_path), desk.authorities.https_for_devices) as url:
        await on_device(tmp_path / "device", await claim_for(desk, url))
    assert (tmp_path / "device" / "report.key").read_bytes() != old


async def test_a_cut_at_any_write_leaves_something_to_continue(desk: Desk, tmp_path: Path) -> None:
    """The power goes at the k-th durable operation, for every k; the next try enrols with one use of the token."""
    async with served(honest(desk, tmp_path), desk.authorities.https_for_devices) as url:
        for k in range(1, 20):
            device, claim = tmp_path / f"device-{k}", await claim_for(desk, url)
            cut = CutEffects(k)
            try:
                await on_device(device, claim, effects=cut)
            except PowerCutError:
                assert not (device / "identity.json").exists() or cut.was_complete
            else:
                break
            if not cut.was_complete:
                await on_device(device, claim)
            assert load_identity(device).hardware == HARDWARE
    assert k > 8


@pytest.mark.parametrize("lie", ["root", "key", "name", "foreign-ca", "id", "url", "noise", "huge", "html", "redirect"])
async def test_a_lying_answer_is_refused(desk: Desk, tmp_path: Path, lie: str) -> None:
    real = EnrolmentOverHttp(desk.service)

    async def answer(request: web.Request) -> web.StreamResponse:
        good = await real.enrol(await request.json())
        if lie in BODIES:
            return BODIES[lie]()
        return web.json_response({**good, **altered(lie, good, desk)})

    async with served(lying(desk, answer=answer), desk.authorities.https_for_devices) as url:
        error = await failure(tmp_path / "device", await claim_for(desk, url))
    assert isinstance(error, RefusedError)
    assert error.kind == ("wrong-pin" if lie == "root" else "malformed" if lie == "http" else "bad-answer")


BODIES: dict[str, Callable[[], web.Response]] = {
    "noise": lambda: web.Response(body=b"\xff\x00"),
    "huge": lambda: web.Response(body=b"x" * (2 << 20)),
    "html": lambda: web.Response(status=404, text="<h1>not here</h1>"),
    "redirect": lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1/"}),
}


def altered(lie: str, good: dict[str, Any], desk: Desk) -> dict[str, Any]:
    """The fields in which a lying answer differs."""
    other_key = csr_of(ec.generate_private_key(ec.SECP256R1()))
    return {
        "root": {"root": '{"signed": {"version": 9}}'},
        "key": {"certificate": desk.authorities.sign_agent(other_key, good["agent"]).pem.decode()},
        "name": {"agent": "d-somebodyel", "target": "d-somebodyel"},
        "foreign-ca": {"fleet_ca": desk.authorities.services.pem.decode()},
        "id": {"agent": "../../etc"},
        "url": {"https_url": "http://plain.example"},
    }[lie]


async def test_an_unreachable_server_is_told_apart(desk: Desk, tmp_path: Path) -> None:
    error = await failure(tmp_path / "device", await claim_for(desk, "https://127.0.0.1:1"))
    assert (type(error), error.kind) == (UnavailableError, "unreachable")


async def test_a_server_that_drips_is_given_up_in_time(desk: Desk, tmp_path: Path) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.05)

    async with served(lying(desk, answer=drip), desk.authorities.https_for_devices) as url:
        error = await failure(tmp_path / "device", await claim_for(desk, url), timeout_s=0.5)
    assert error.kind == "unreachable"


async def test_two_enrolments_into_one_directory_do_not_mix(desk: Desk, tmp_path: Path) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()
    real = EnrolmentOverHttp(desk.service)

    async def slow(request: web.Request) -> web.StreamResponse:
        reached.set()
        await go_on.wait()
        return web.json_response(await real.enrol(await request.json()))

    async with served(lying(desk, answer=slow), desk.authorities.https_for_devices) as url:
        first = asyncio.create_task(on_device(tmp_path / "device", await claim_for(desk, url)))
        await asyncio.wait_for(reached.wait(), 10)
        assert (await failure(tmp_path / "device", await claim_for(desk, url))).kind == "busy"
        go_on.set()
        await first


async def test_bad_words_never_reach_the_network(desk: Desk, tmp_path: Path) -> None:
    app = lying(desk)
    async with served(app, desk.authorities.https_for_devices) as url:
        claim = await claim_for(desk, url)
        for hardware in ("", "../board", "x" * 200, "a b"):
            with pytest.raises(RefusedError):
                await asyncio.to_thread(enrol, tmp_path / "device", claim, hardware)
        with pytest.raises(RefusedError) as caught:
            await asyncio.to_thread(enrol, tmp_path / "other", claim[:-3], HARDWARE)
    assert (caught.value.kind, app[SENT]) == ("claim-malformed", [])
    assert not (tmp_path / "other").exists()


def test_a_port_out_of_range_in_a_token_is_malformed(tmp_path: Path) -> None:
    claim = Claim(url="https://127.0.0.1:99999", id="c-a", secret="s" * 43, ca="a" * 64, root="b" * 64)
    with pytest.raises(RefusedError) as caught:
        enrol(tmp_path / "device", encode_claim(claim), HARDWARE)
    assert caught.value.kind == "claim-malformed"


class PowerCutError(Exception):
    """The power is gone; nobody may catch this."""


class CutEffects(FileEffects):
    """The real file system, until the k-th durable operation, which does not happen any more."""

    def __init__(self, k: int) -> None:
        self._left = k
        self.was_complete = False

    def replace(self, path: Path, data: bytes) -> None:
        self._count()
        super().replace(path, data)
        self.was_complete = path.name == "identity.json"

    def unlink(self, path: Path) -> None:
        self._count()
        super().unlink(path)

    def _count(self) -> None:
        self._left -= 1
        if self._left <= 0:
            raise PowerCutError

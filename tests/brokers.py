"""Both brokers as fixtures: `from tests.brokers import authorities, broker` gives every test that takes `broker` two runs.

`Yard` also makes agents with real certificates, and speaks raw MQTT for them, so that a test can do what no agent of ours would.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from server.identity.authority import MQTT_IDENTITY, Authorities, TlsFiles
from server.transport.broker import RunningBroker, find_mosquitto, start_broker

KINDS = ("mosquitto", "embedded")
DEADLINE_S = 15.0
A, B = "d-aaaaaaaaaa", "d-bbbbbbbbbb"


def skip_without(kind: str) -> None:
    """Say what to install when the real broker is not here."""
    if kind == "mosquitto" and find_mosquitto() is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")


@pytest.fixture
def authorities(tmp_path: Path) -> Authorities:
    return Authorities.open_or_create(tmp_path / "identity")


@pytest_asyncio.fixture(params=KINDS)
async def broker(
    request: pytest.FixtureRequest, tmp_path: Path, authorities: Authorities
) -> AsyncIterator[RunningBroker]:
    """A running broker that is not restarted when it dies."""
    skip_without(request.param)
    running = await start_broker(tmp_path / "broker", authorities, kind=request.param, restart=False)
    yield running
    await running.stop()


@dataclass
class Yard:
    """Agents of one installation."""

    broker: RunningBroker
    authorities: Authorities
    directory: Path
    _made: dict[str, TlsFiles] = field(default_factory=dict)

    def agent_files(self, agent: str, *, by: Authorities | None = None) -> TlsFiles:
        """Key and certificate of an agent, signed by our fleet CA or another installation's."""
        name = f"{agent}-{'foreign' if by else 'own'}"
        if name not in self._made:
            key = ec.generate_private_key(ec.SECP256R1())
            made = (by or self.authorities).sign_agent(csr_of(key), agent)
            files = TlsFiles(
                ca=self.authorities.services_ca_file,
                certificate=self.directory / f"{name}.crt",
                key=self.directory / f"{name}.key",
            )
            files.certificate.write_bytes(made.pem)
            files.key.write_bytes(key_pem(key))
            self._made[name] = files
        return self._made[name]

    @asynccontextmanager
    async def connected(
        self,
        name: str,
        *,
        identifier: str | None = None,
        files: TlsFiles | None = None,
        port: int | None = None,
        **more: Any,
    ) -> AsyncIterator[aiomqtt.Client]:
        """A raw client with an agent's certificate (or the files given) on the agents' listener (or the port given)."""
        tls = files or self.agent_files(name)
        client = aiomqtt.Client(
            self.broker.host,
            port or self.broker.ports.agents,
            identifier=identifier or name,
            clean_session=True,
            timeout=DEADLINE_S,
            tls_context=client_context(tls),
            max_inflight_messages=1000,
            **more,
        )
        client.pending_calls_threshold = 1 << 20
        try:
            async with client:
                yield client
        finally:
            if client._disconnected.done():
                client._disconnected.exception()  # looked at, so that asyncio does not complain about it

    @asynccontextmanager
    async def server(self) -> AsyncIterator[aiomqtt.Client]:
        """A raw client with the server's certificate on the services' listener."""
        files, port = self.authorities.mqtt_client, self.broker.ports.services
        async with self.connected(MQTT_IDENTITY, files=files, port=port) as client:
            yield client


@pytest.fixture
def yard(broker: RunningBroker, authorities: Authorities, tmp_path: Path) -> Yard:
    return Yard(broker=broker, authorities=authorities, directory=tmp_path)


def client_context(tls: TlsFiles) -> ssl.SSLContext:
    """TLS of a client with these files."""
    context = ssl.create_default_context(cafile=tls.ca)
    context.load_cert_chain(tls.certificate, tls.key)
    return context


def csr_of(key: ec.EllipticCurvePrivateKey, name: str = "whatever") -> bytes:
    """A certificate request in PEM."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key in PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


async def until(condition: Callable[[], bool], *, deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition; fails the test after the deadline."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def next_message(client: aiomqtt.Client, *, deadline_s: float = DEADLINE_S) -> aiomqtt.Message:
    """The next message a raw client gets."""
    return await soon(anext(client.messages), deadline_s=deadline_s)


async def soon(awaitable: Awaitable[Any], *, deadline_s: float = DEADLINE_S) -> Any:
    """The result of an awaitable that must not take long."""
    return await asyncio.wait_for(awaitable, deadline_s)

"""Ending an agent's live session, on any broker: MQTT lets the newest connection of a client id end the one before it.

The broker takes the client id from the certificate, and the fleet CA is ours: so the server shows up under the agent's name
for a moment, and leaves. The certificate made for that is good for a day, and its key stays in a directory that is removed
at once.
"""

import asyncio
import tempfile
from pathlib import Path

import aiomqtt
from cryptography.hazmat.primitives.asymmetric import ec

from firmware.errors import UnavailableError
from server.identity.authority import Authorities, TlsFiles
from server.identity.private_files import key_pem, write_private
from server.transport.endpoint import BrokerEndpoint
from server.transport.tls import tls_context

ANSWER_TIMEOUT_S = 10.0


class Takeover:
    """Ends sessions at the agents' listener at (`host`, `port`)."""

    def __init__(self, host: str, port: int, authorities: Authorities) -> None:
        self._host, self._port, self._authorities = host, port, authorities

    async def end_session(self, agent: str) -> None:
        """Whatever connection the agent has now is over when this returns. Raises `UnavailableError` (`broker-unreachable`)."""
        with tempfile.TemporaryDirectory(dir=self._authorities.directory, prefix=".takeover-") as name:
            tls = await asyncio.to_thread(self._files, Path(name), agent)
            endpoint = BrokerEndpoint(host=self._host, port=self._port, tls=tls)
            context = await asyncio.to_thread(tls_context, endpoint)
        client = aiomqtt.Client(
            self._host,
            self._port,
            identifier=agent,
            clean_session=True,
            timeout=ANSWER_TIMEOUT_S,
            tls_context=context,
        )
        try:
            async with client:
                pass
        except (aiomqtt.MqttError, OSError) as error:
            raise UnavailableError(
                "broker-unreachable", f"The session of {agent} could not be ended: {error}; it is tried again."
            ) from error

    def _files(self, directory: Path, agent: str) -> TlsFiles:
        key = ec.generate_private_key(ec.SECP256R1())
        files = TlsFiles(
            ca=self._authorities.services_ca_file, certificate=directory / "name.pem", key=directory / "name.key"
        )
        write_private(files.certificate, self._authorities.certify_for_takeover(key.public_key(), agent))
        write_private(files.key, key_pem(key))
        return files

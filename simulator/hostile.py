"""A broker that belongs to an attacker: the same program and configuration, but with an account that may do everything.

`Eve` is that account. She reads what passes, and publishes what she likes on any topic, retained or not. The point is what
she does not have: a director key, or any report key.
"""

import contextlib
import getpass
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import paho.mqtt.client as mqtt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.enums import CallbackAPIVersion

from device_agent.boot.leash import leashed
from firmware.errors import UnavailableError
from firmware.protocol import topics
from server.identity.authority import Authorities
from server.transport.broker import find_mosquitto
from server.transport.embedded_config import EmbeddedConfig, EmbeddedListener, encode_config
from server.transport.mosquitto import Listener, mosquitto_access_list, mosquitto_config

EVE = "eve"
HOST = "127.0.0.1"
READY_S = 20.0
POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A message Eve saw."""

    topic: str
    payload: bytes


class HostileBroker:
    """A broker process of its own, that outlives the server and can be killed apart from it."""

    def __init__(
        self,
        directory: Path,
        authorities: Authorities,
        *,
        kind: str,
        agents: int,
        services: int,
        most_agents: int = 1000,
    ) -> None:
        """`kind`: `mosquitto` or `embedded`; the ports it listens on; how many agents it takes at a time."""
        directory.mkdir(parents=True, exist_ok=True)
        self.agents_port = agents
        self.services_port = services
        self.revocation_lists = authorities.revocation_file
        self._directory, self._kind = directory, kind
        self._authorities, self._most_agents = authorities, most_agents
        self._command = (self._mosquitto if kind == "mosquitto" else self._embedded)()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_up = False

    def start(self) -> None:
        """Start it and wait until it accepts TLS connections."""
        with (self._directory / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(leashed(self._command), stdout=log, stderr=log)
        deadline = time.monotonic() + READY_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise UnavailableError("broker-failed", (self._directory / "broker.log").read_text()[-2000:])
            time.sleep(POLL_S)
        self._is_up = True

    def read_lists(self) -> None:
        """Have it read its revocation lists again, as its owner must when they are new; the embedded one does so by itself."""
        process = self._process
        if self._kind == "mosquitto" and self._is_up and process is not None:
            process.send_signal(signal.SIGHUP)

    def signal(self, number: signal.Signals) -> None:
        """Send its process a signal, such as those that freeze and wake it."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """`kill -9`: retained messages are gone."""
        self._is_up = False
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def pid(self) -> int:
        """Its process; 0 while it doesn't run."""
        return self._process.pid if self._process is not None else 0

    def eve(self) -> "Eve":
        """Connect as Eve."""
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        certificate = self._authorities.sign_agent(request.public_bytes(serialization.Encoding.PEM), EVE)
        key_file, certificate_file = self._directory / "eve.key", self._directory / "eve.crt"
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        certificate_file.write_bytes(certificate.pem)
        context = ssl.create_default_context(cafile=self._authorities.services_ca_file)
        context.check_hostname = False
        context.load_cert_chain(certificate_file, key_file)
        return Eve(context, self.agents_port)

    def _answers(self) -> bool:
        context = ssl.create_default_context(cafile=self._authorities.services_ca_file)
        context.check_hostname = False
        with contextlib.suppress(OSError), socket_to(self.agents_port) as raw, context.wrap_socket(raw):
            return True
        return False

    def _mosquitto(self) -> list[str]:
        config, access_list = self._directory / "mosquitto.conf", self._directory / "mosquitto.acl"
        access_list.write_text(f"{mosquitto_access_list()}\nuser {EVE}\ntopic readwrite {topics.ROOT}/#\n")
        access_list.chmod(0o600)
        config.write_text(
            mosquitto_config(
                bind=HOST,
                agents=Listener(
                    port=self.agents_port,
                    tls=self._authorities.broker_for_agents,
                    max_connections=self._most_agents,
                ),
                services=Listener(
                    port=self.services_port, tls=self._authorities.broker_for_services, max_connections=10
                ),
                access_list=access_list,
                log=self._directory / "mosquitto.log",
                user=getpass.getuser(),
            )
        )
        return [str(find_mosquitto()), "-c", str(config)]

    def _embedded(self) -> list[str]:
        config = self._directory / "embedded.json"
        config.write_bytes(
            encode_config(
                EmbeddedConfig(
                    bind=HOST,
                    agents=EmbeddedListener.of(self.agents_port, self._authorities.broker_for_agents),
                    services=EmbeddedListener.of(self.services_port, self._authorities.broker_for_services),
                )
            )
        )
        return [sys.executable, "-m", "simulator.hostile_embedded", str(config)]


class Eve:
    """The attacker's connection."""

    def __init__(self, context: ssl.SSLContext, port: int) -> None:
        self.seen: list[Seen] = []
        self._ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=EVE, protocol=mqtt.MQTTv311)
        self._client.tls_set_context(context)
        self._client.on_connect = self._connected
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _client, _data, message: self.seen.append(
            Seen(topic=message.topic, payload=bytes(message.payload))
        )
        self._client.connect(HOST, port)
        self._client.loop_start()
        if not self._ready.wait(READY_S):
            raise UnavailableError("unreachable", "Eve could not connect to her own broker.")

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish anything anywhere; returns once the broker took it."""
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(READY_S)

    def wait_for(self, wanted: Callable[[Seen], bool], timeout_s: float) -> Seen:
        """The first message seen so far, or from now on, that fits; raises `UnavailableError` after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for message in tuple(self.seen):
                if wanted(message):
                    return message
            time.sleep(POLL_S)
        raise UnavailableError("not-seen", f"Eve saw no such message in {timeout_s:g} s.")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe(f"{topics.ROOT}/#", qos=1)


def socket_to(port: int) -> "contextlib.AbstractContextManager[socket.socket]":
    """A plain TCP connection to a loopback port."""
    return socket.create_connection((HOST, port), timeout=5)

"""The settings of the embedded broker as a file, so that it can run in a process of its own."""

from typing import Annotated

from msgspec import Meta, Struct

from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, convert, parse_json
from server.identity.authority import TlsFiles

MAX_BYTES = 16384
LOOPBACK = "127.0.0.1"
Port = Annotated[int, Meta(ge=1, le=65535)]


class EmbeddedListener(Struct, frozen=True, kw_only=True):
    """A TLS listener: `ca` is the PEM file that its clients' certificates come from, `revoked` lists those that are refused."""

    port: Port
    ca: str
    certificate: str
    key: str
    revoked: str = ""

    @classmethod
    def of(cls, port: int, tls: TlsFiles) -> "EmbeddedListener":
        """A listener with these files."""
        revoked = str(tls.revoked) if tls.revoked else ""
        return cls(port=port, ca=str(tls.ca), certificate=str(tls.certificate), key=str(tls.key), revoked=revoked)


class EmbeddedConfig(Struct, frozen=True, kw_only=True):
    """Everything the embedded broker is told."""

    bind: str
    agents: EmbeddedListener
    services: EmbeddedListener


def encode_config(config: EmbeddedConfig) -> bytes:
    """The file's bytes."""
    return canonical(config)


def parse_config(data: bytes) -> EmbeddedConfig:
    """Parse the file; raises `RefusedError` (`malformed`, `too-large`; `bad-broker-setting` for a foreign address)."""
    config = convert(parse_json(data, max_bytes=MAX_BYTES), EmbeddedConfig)
    if config.bind != LOOPBACK:
        raise RefusedError(
            "bad-broker-setting",
            f"The embedded broker is for demonstrations on one machine; it does not listen on {config.bind}. Use Mosquitto.",
        )
    return config

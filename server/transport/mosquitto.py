"""Mosquitto's configuration and access list as text (mosquitto.conf(5)); pure, so that a command can print them too.

One access list serves both listeners: with `per_listener_settings` a last will is checked against a listener that may be
gone by then. Who may do what hangs on the certificate's common name alone, which no client chooses:

* `use_identity_as_username`: the user name is the common name, whatever the client says;
* `use_username_as_clientid`: so is the client id, so that nobody can take over another's connection;
* `pattern` lines give each name its own subtree. They cannot compute the shard: the server does, and drops what is wrong.

Nothing is kept on disk: retained messages are a cache that the server fills again after every reconnect.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from firmware.errors import RefusedError
from firmware.protocol import topics
from server.identity.authority import MQTT_IDENTITY, TlsFiles

MAX_PACKET_BYTES = 128 * 1024
MAX_QUEUED_MESSAGES = 100_000
"""Per client. The default of 1,000 loses retained messages for whoever subscribes to more."""
MAX_QUEUED_BYTES = 256 << 20
MAX_INFLIGHT = 100
MAX_AGENT_CONNECTIONS = 200_000
MAX_SERVICE_CONNECTIONS = 100
_ADDRESS = re.compile(r"[0-9A-Za-z.:-]{1,255}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True)
class Listener:
    """One TLS listener: its port, and its certificate files with the CA that its clients come from."""

    port: int
    tls: TlsFiles
    max_connections: int


def mosquitto_config(
    *,
    bind: str,
    agents: Listener,
    services: Listener,
    access_list: Path,
    log: Path,
    user: str,
    memory_bytes: int = 0,
) -> str:
    """The text of mosquitto.conf; raises `RefusedError` (`bad-broker-setting`) for what cannot be written into it.

    `memory_bytes`: how much heap it may take (0: no limit). It is the only bound on retained messages: the access list cannot
    say how many topics an agent may keep one in.
    """
    lines = [
        "per_listener_settings false",
        "allow_anonymous false",
        f"acl_file {_path(access_list)}",
        "persistence false",
        "persistent_client_expiration 1h",
        f"max_queued_messages {MAX_QUEUED_MESSAGES}",
        f"max_queued_bytes {MAX_QUEUED_BYTES}",
        f"max_inflight_messages {MAX_INFLIGHT}",
        f"max_packet_size {MAX_PACKET_BYTES}",
        *([f"memory_limit {memory_bytes}"] if memory_bytes else []),
        "queue_qos0_messages false",
        "set_tcp_nodelay true",
        "sys_interval 0",
        f"user {_word(user)}",
        f"log_dest file {_path(log)}",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "connection_messages false",
        *_listener(bind, agents),
        *_listener(bind, services),
    ]
    return "\n".join(lines) + "\n"


def mosquitto_access_list() -> str:
    """The text of the access list file: the server everywhere below the root, every agent below its own id."""
    own = f"{topics.ROOT}/+/%u"
    lines = [
        f"user {MQTT_IDENTITY}",
        f"topic readwrite {topics.ROOT}/#",
        "",
        f"pattern read {topics.CATALOGUE}",
        f"pattern write {own}/{topics.Leaf.PRESENCE}",
        *(f"pattern write {own}/t/+/{leaf}" for leaf in sorted(topics.SENT_BY_AGENT - {topics.Leaf.PRESENCE})),
        *(f"pattern read {own}/t/+/{leaf}" for leaf in sorted(topics.SENT_BY_SERVER)),
    ]
    return "\n".join(lines) + "\n"


def _listener(bind: str, listener: Listener) -> list[str]:
    if not _ADDRESS.fullmatch(bind) or not 0 < listener.port < 65536:
        raise RefusedError("bad-broker-setting", f"The broker cannot listen on {bind!r} port {listener.port}.")
    return [
        f"listener {listener.port} {bind}",
        f"cafile {_path(listener.tls.ca)}",
        f"certfile {_path(listener.tls.certificate)}",
        f"keyfile {_path(listener.tls.key)}",
        *([f"crlfile {_path(listener.tls.revoked)}"] if listener.tls.revoked else []),
        "tls_version tlsv1.2",
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        f"max_connections {listener.max_connections}",
    ]


def _path(path: Path) -> str:
    text = str(path.absolute())
    if _UNPRINTABLE.search(text):
        raise RefusedError("bad-broker-setting", f"The path {text!r} cannot stand in mosquitto.conf; choose another.")
    return text


def _word(text: str) -> str:
    if not text or _UNPRINTABLE.search(text) or " " in text:
        raise RefusedError("bad-broker-setting", f"The user name {text!r} cannot stand in mosquitto.conf.")
    return text

"""What a Mosquitto that runs without us needs, in one directory: configuration, access list, and copies of the TLS files.

The copies can be brought up to date alone (a new revocation list, renewed certificates), so that what a person changed in the
configuration stays.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from firmware.errors import RefusedError
from server.identity.authority import Authorities, TlsFiles
from server.identity.private_files import write_private
from server.transport.mosquitto import (
    MAX_AGENT_CONNECTIONS,
    MAX_SERVICE_CONNECTIONS,
    Listener,
    mosquitto_access_list,
    mosquitto_config,
)

CONFIG, ACCESS_LIST = "mosquitto.conf", "mosquitto.acl"
LOG = "mosquitto.log"
MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class SetUp:
    """What a person chooses of a broker of their own. `memory_bytes`: how much heap it may take, retained messages among it."""

    listen: str
    agents_port: int
    services_port: int
    user: str
    log: Path
    memory_bytes: int


def write_set_up(directory: Path, authorities: Authorities, wanted: SetUp) -> list[str]:
    """Write what is new or has changed; returns the names of those files. Blocking. Raises `RefusedError`
    (`bad-broker-setting`)."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    agents = _beside(directory, authorities.broker_for_agents)
    services = _beside(directory, authorities.broker_for_services)
    text = mosquitto_config(
        bind=wanted.listen,
        agents=Listener(port=wanted.agents_port, tls=agents, max_connections=MAX_AGENT_CONNECTIONS),
        services=Listener(port=wanted.services_port, tls=services, max_connections=MAX_SERVICE_CONNECTIONS),
        access_list=directory / ACCESS_LIST,
        log=wanted.log,
        user=wanted.user,
        memory_bytes=wanted.memory_bytes,
    )
    contents = {CONFIG: text.encode(), ACCESS_LIST: mosquitto_access_list().encode()}
    written = [name for name, data in contents.items() if _written(directory / name, data)]
    return written + refresh(directory, authorities)


def refresh(directory: Path, authorities: Authorities) -> list[str]:
    """Bring the TLS files up to date; returns the names of those that changed. Blocking."""
    return [path.name for path in _tls_files(authorities) if _written(directory / path.name, path.read_bytes())]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A broker's configuration as a trial runs it: on loopback, as ourselves. `ports`: of its listeners, in their order."""

    config: Path
    log: Path
    ports: tuple[int, ...]
    memory_bytes: int | None


def trial_of(
    config: Path, directory: Path, *, ports: tuple[int, ...], user: str, lists: bytes, memory_bytes: int
) -> Trial:
    """Copy a configuration for a trial; every line that decides who may do what stays as it is.

    `lists`: revocation lists that take the place of its own; `memory_bytes`: the most that it may take. Raises `RefusedError`
    (`bad-broker-setting`).
    """
    lines = config_lines(config)
    wanted = [line.split()[1] for line in lines if line.startswith("listener ")]
    if not 2 <= len(wanted) <= len(ports):
        text = f"{config} has {len(wanted)} listeners; one for agents and then one for services are needed."
        raise RefusedError("bad-broker-setting", text)
    log, revoked = directory / LOG, directory / "revoked.pem"
    write_private(revoked, lists)
    changed = {"user": user, "log_dest": f"file {log}", "crlfile": str(revoked)}
    left, limit, out = iter(ports), None, []
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "listener":
            out.append(f"listener {next(left)} 127.0.0.1")
        elif word == "memory_limit":
            limit = min(memory_bytes, int(rest) or memory_bytes) if rest.isdecimal() else None
            out.append(f"memory_limit {limit}" if limit else line)
        elif word not in ("pid_file", "persistence_location"):
            out.append(f"{word} {changed[word]}" if word in changed else line)
    write_private(directory / CONFIG, ("\n".join(out) + "\n").encode())
    return Trial(config=directory / CONFIG, log=log, ports=ports[: len(wanted)], memory_bytes=limit)


def config_lines(config: Path) -> list[str]:
    """The lines of a configuration that say something; raises `RefusedError` (`bad-broker-setting`)."""
    try:
        data = config.read_bytes()
        text = data.decode() if len(data) <= MAX_CONFIG_BYTES else None
    except UnicodeDecodeError:
        text = None
    except FileNotFoundError as error:
        text = f"There is no {config}; write one with `otaria broker config`."
        raise RefusedError("bad-broker-setting", text) from error
    if text is None:
        raise RefusedError("bad-broker-setting", f"{config} is no configuration of Mosquitto.")
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def listeners_of(config: Path) -> list[int]:
    """The ports of a configuration's listeners, in their order; raises `RefusedError` (`bad-broker-setting`)."""
    words = [line.split() for line in config_lines(config) if line.startswith("listener ")]
    return [int(word[1]) for word in words if word[1].isdecimal()]


def _beside(directory: Path, files: TlsFiles) -> TlsFiles:
    """The same files, as they are called in the broker's directory."""
    here: Mapping[str, Path] = {
        name: directory / path.name for name, path in vars(files).items() if isinstance(path, Path)
    }
    return replace(files, **here)


def _tls_files(authorities: Authorities) -> list[Path]:
    found = [*vars(authorities.broker_for_agents).values(), *vars(authorities.broker_for_services).values()]
    return list(dict.fromkeys(path for path in found if isinstance(path, Path)))


def _written(path: Path, data: bytes) -> bool:
    """Write a file unless it says that already; its owner and group stay, so that a broker that may read it still may."""
    before = path.stat() if path.exists() else None
    if before is not None and path.read_bytes() == data:
        return False
    write_private(path, data)
    if before is not None:
        path.chmod(before.st_mode & 0o777)
        shutil.chown(path, before.st_uid, before.st_gid)
    return True

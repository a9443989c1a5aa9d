"""`otaria broker`: a Mosquitto that runs without the server, set up by one command and attacked by another."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.table import Table

from server.cli.output import emit, json_option, table
from server.identity.authority import REVOCATION_FILE, Authorities
from server.transport.attempts import Finding
from server.transport.broker_files import CONFIG, SetUp, refresh, write_set_up
from server.transport.trial import try_configuration, try_running

F = TypeVar("F", bound=Callable[..., Any])
_state_option: Callable[[F], F] = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default="state",
    show_default=True,
    help="The server's state directory, with its CAs.",
)
_directory_argument: Callable[[F], F] = click.argument("directory", type=click.Path(path_type=Path, file_okay=False))


@click.group()
def broker() -> None:
    """Set up a Mosquitto of your own, and try to break it.

    Example: otaria broker config /etc/mosquitto/otaria --state /var/lib/otaria
    """


@broker.command()
@_directory_argument
@_state_option
@click.option("--listen", default="0.0.0.0", show_default=True, help="The address of both listeners.")  # noqa: S104
@click.option("--agents-port", type=click.IntRange(1, 65535), default=8883, show_default=True, help="For devices.")
@click.option("--services-port", type=click.IntRange(1, 65535), default=8884, show_default=True, help="For the server.")
@click.option("--user", default="mosquitto", show_default=True, help="The user that Mosquitto becomes.")
@click.option(
    "--log",
    type=click.Path(path_type=Path),
    default="/var/log/mosquitto/otaria.log",
    show_default=True,
    help="Its log.",
)
@click.option(
    "--memory", type=click.IntRange(64, 1 << 20), default=2048, show_default=True, help="MiB that it may take at most."
)
@click.option("--refresh", "only_files", is_flag=True, help="Only copy TLS files and revocation lists that changed.")
@json_option
def config(
    directory: Path,
    state: Path,
    listen: str,
    agents_port: int,
    services_port: int,
    user: str,
    log: Path,
    memory: int,
    only_files: bool,
    as_json: bool,
) -> None:
    """Write a production configuration of Mosquitto into DIRECTORY: TLS with client certificates, access list, limits.

    Its certificates and revocation lists are copied there, readable for their owner alone: give them to the broker's user. After
    somebody was revoked run it again with --refresh, and send the broker SIGHUP.

    Example: otaria broker config /etc/mosquitto/otaria --state /var/lib/otaria
    """
    authorities = Authorities.open(state / "identity")
    if only_files:
        written = refresh(directory, authorities)
    else:
        wanted = SetUp(
            listen=listen,
            agents_port=agents_port,
            services_port=services_port,
            user=user,
            log=log.absolute(),
            memory_bytes=memory << 20,
        )
        written = write_set_up(directory.absolute(), authorities, wanted)
    text = f"Written into {directory}: {', '.join(written)}." if written else f"{directory} is as it should be."
    emit({"directory": str(directory), "written": written}, as_json=as_json, text=text)


@broker.command()
@_directory_argument
@_state_option
@click.option("--at", "host", help="Try the broker that runs at this host, instead of one that is started for it.")
@json_option
def verify(directory: Path, state: Path, host: str | None, as_json: bool) -> int:
    """Try to break a broker that runs with DIRECTORY/mosquitto.conf, and say what was refused.

    Without --at a Mosquitto is started from it on loopback, so that nobody's broker is disturbed. With --at nothing is tried that
    would harm a broker in use; the server's own connection is taken over for moments. Exit code 1 when anything got through.

    Example: otaria broker verify /etc/mosquitto/otaria
    """
    authorities, path = Authorities.open(state / "identity"), directory / CONFIG
    attempt = try_running(path, authorities, host) if host else try_configuration(path, authorities)
    findings = [*_copy(directory, authorities), *asyncio.run(attempt)]
    holes = [one for one in findings if not one.good]
    value = {"good": not holes, "findings": [{**asdict(one), "good": one.good} for one in findings]}
    emit(value, as_json=as_json, text=_shown(findings))
    return 1 if holes else 0


def _copy(directory: Path, authorities: Authorities) -> list[Finding]:
    """Whether the broker's copy of the revocation lists, if it has one, is what the server wrote last."""
    copy = directory / REVOCATION_FILE
    if not copy.exists():
        return []
    is_current = copy.read_bytes() == authorities.revocation_file.read_bytes()
    detail = "" if is_current else "it is older than the server's; `otaria broker config --refresh`, and SIGHUP"
    return [Finding(name="the revocation list", outcome="works" if is_current else "fails", detail=detail)]


def _shown(findings: Sequence[Finding]) -> Table:
    rows = [("" if one.good else "✗", one.name, one.outcome, one.detail) for one in findings]
    return table(("", "attempt", "outcome", ""), rows)

"""`otaria keys endpoints`: tell devices, signed by the offline `targets` keys, where their server is and whom to trust there."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from firmware.catalogue import changes
from firmware.errors import RefusedError
from firmware.protocol.codec import convert
from firmware.protocol.endpoints import Endpoints
from server.cli.keys.asking import FILE, workspace
from server.cli.keys.changing import How, carry_out, change_options

MAX_CA_FILE_BYTES = 65536


class ServerAndBroker(click.ParamType[Any]):
    """`https://HOST:PORT=HOST:PORT`: a server, and the broker that belongs to it."""

    name = "server=broker"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        server, equals, broker = str(value).partition("=")
        if not (server and equals and broker):
            self.fail(f"{value!r} is not of the form https://HOST:PORT=BROKER:PORT.", param, ctx)
        return server, broker


@click.command()
@click.option(
    "--endpoint",
    "ways",
    type=ServerAndBroker(),
    multiple=True,
    help="A server and its broker, the preferred one first; up to four.",
)
@click.option(
    "--services-ca", "cas", type=FILE, multiple=True, help="PEM file of a services CA that devices trust from now on."
)
@click.option("--clear", is_flag=True, help="Say nothing any more: what devices were told at enrolment counts again.")
@change_options
def endpoints(ways: tuple[tuple[str, str], ...], cas: tuple[Path, ...], clear: bool, **how: Any) -> None:
    """Tell devices where their server is and which services CAs to trust there. The `targets` keys sign it.

    Devices go to the first that answers; the address from enrolment stays the last resort. The CAs replace the one that was
    pinned: name every one that is in use.

    Example: otaria keys endpoints --endpoint https://new.example:8443=new.example:8883 --services-ca ca.pem --repository acme
    """
    given = How(**how)
    if clear == bool(ways or cas) or bool(ways) != bool(cas):
        raise click.UsageError("Give at least one --endpoint and one --services-ca, or --clear alone.")
    repository = workspace(given.directory, given.uris)
    wanted = None if clear else _wanted(ways, cas)
    carry_out(repository, changes.endpoints(repository, wanted, now=time.time()), given)


def _wanted(ways: tuple[tuple[str, str], ...], cas: tuple[Path, ...]) -> Endpoints:
    value = {
        "endpoints": [{"server": server, "broker": broker} for server, broker in ways],
        "services_ca": list(dict.fromkeys(pem for path in cas for pem in _certificates(path))),
    }
    return convert(value, Endpoints)


def _certificates(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        data = file.read(MAX_CA_FILE_BYTES)
    try:
        found = x509.load_pem_x509_certificates(data)
        authorities = [one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca for one in found]
    except (ValueError, x509.ExtensionNotFound) as error:
        raise RefusedError("bad-certificate-file", f"{path} holds no CA certificates in PEM.") from error
    if not all(authorities):
        raise RefusedError("bad-certificate-file", f"{path} holds a certificate that is not a CA's.")
    for one in found:
        yield one.public_bytes(serialization.Encoding.PEM).decode()

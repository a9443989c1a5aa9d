"""`otaria fleet known`: devices that enrol by their own key or factory certificate, without a claim token."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from firmware.errors import RefusedError
from server.cli import claims
from server.cli.output import emit, json_option, table
from server.cli.rest import connect, segment, server_options

KEY, SERIAL = "key_sha256", "serial"
PAGE = 500


@click.group()
def known() -> None:
    """Devices that are known before they come: by their key, or by the serial in their factory certificate.

    Example: otaria fleet known add --from batch-7.csv
    """


@known.command()
@click.option(
    "--from",
    "table_file",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A CSV file with a column `key_sha256` or `serial`, and a label for each other column.",
)
@server_options
@json_option
def add(table_file: Path, server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Make the devices of a table known, with the labels that they will have. The same table again changes nothing.

    `key_sha256` is of the DER of the public key: openssl pkey -in device.key -pubout -outform DER | sha256sum

    Example: otaria fleet known add --from batch-7.csv
    """
    rows = [_row(table_file, row.labels) for row in claims.read(table_file)]
    client, added = connect(server, token_file, state), 0
    with Progress(console=Console(stderr=True), disable=as_json, transient=True) as progress:
        for begin in progress.track(range(0, len(rows), PAGE), description="devices"):
            added += int(client.post("/known-devices", {"devices": rows[begin : begin + PAGE]})["added"])
    before = len(rows) - added
    text = f"{added} devices are known now" + (f", {before} were already." if before else ".")
    emit({"added": added, "known": len(rows)}, as_json=as_json, text=text)


@known.command("list")
@server_options
@json_option
def list_(server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """List the known devices, and what they enrolled as.

    Example: otaria fleet known list
    """
    found = connect(server, token_file, state).whole("/known-devices", "known_devices")
    rows = [
        (
            one["id"],
            one["serial"] or f"{one['key_sha256'][:16]}…",
            (one["agent"] or "") + (", may enrol again" if one["again"] else ""),
            " ".join(f"{name}={value}" for name, value in sorted(one["labels"].items())),
        )
        for one in found
    ]
    emit({"known_devices": found}, as_json=as_json, text=table(("id", "serial or key", "enrolled as", "labels"), rows))


@known.command()
@click.argument("id_", metavar="ID")
@click.option("--reason", default="", help="Why, for the trail.")
@server_options
@json_option
def allow(
    id_: str, reason: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool
) -> None:
    """Let a device that has enrolled do so once more, with new keys. What it was is revoked when it comes.

    Example: otaria fleet known allow k-abcdefghij --reason "its flash was replaced"
    """
    found = connect(server, token_file, state).post(f"/known-devices/{segment(id_)}/allow", {"reason": reason})
    emit(found, as_json=as_json, text=f"{id_} may enrol again, in place of {found['agent']}.")


@known.command()
@click.argument("id_", metavar="ID")
@server_options
@json_option
def remove(id_: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Forget a device that has not enrolled.

    Example: otaria fleet known remove k-abcdefghij
    """
    answer = connect(server, token_file, state).delete(f"/known-devices/{segment(id_)}", None)
    emit(answer, as_json=as_json, text=f"{id_} can't enrol any more.")


@known.command()
@server_options
@json_option
def introduction(server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Print what a known device is given instead of a claim token: where to enrol, and whom to trust there. It is no secret.

    Example: otaria fleet known introduction > introduction.txt
    """
    answer = connect(server, token_file, state).get("/introduction")
    emit(answer, as_json=as_json, text=answer["introduction"])


def _row(path: Path, cells: dict[str, str]) -> dict[str, Any]:
    labels = dict(cells)
    key, serial = labels.pop(KEY, None), labels.pop(SERIAL, None)
    if (key is None) == (serial is None):
        raise RefusedError("bad-table", f"Each row of {path} must have either {KEY} or {SERIAL}.")
    return {KEY: key.lower() if key else None, SERIAL: serial, "labels": labels}

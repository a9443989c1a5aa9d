"""`otaria audit`: see the trail, take it away, and verify it where nobody of the server's has a hand in it."""

import hashlib
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import IO

import click
import msgspec

from firmware.catalogue.signers import key_file, read_key_file
from firmware.errors import RefusedError
from firmware.protocol.codec import canonical
from firmware.protocol.envelope import key_from_dict
from server.audit.chain import MAX_LINE_BYTES
from server.audit.checkpoint import MAX_BYTES
from server.audit.verify import Verdict, Verifier
from server.cli.output import emit, json_option, stamp, table
from server.cli.params import Duration
from server.cli.rest import connect, server_options


@click.group()
def audit() -> None:
    """See what was decided and done, and prove that nobody has changed it since.

    Example: otaria audit show --target gw-0007
    """


@audit.command()
@click.option("--campaign", help="Only about this campaign.")
@click.option("--target", help="Only about this target.")
@click.option("--kind", help="Only of this kind, such as `committed`.")
@click.option("--actor", help="Only by this person, or part of the server.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many, the newest."
)
@server_options
@json_option
def show(
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    campaign: str | None,
    target: str | None,
    kind: str | None,
    actor: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show the newest records, the newest last.

    Example: otaria audit show --campaign spring --kind gate-accepted
    """
    client = connect(server, token_file, state)
    query = {"campaign": campaign, "target": target, "kind": kind, "actor": actor, "limit": limit}
    records = client.get("/audit", **query)["audit"][::-1]
    rows = [
        (stamp(one["at"]), f"{one['partition']} {one['number']}", one["actor"], one["kind"], one["target"], one["text"])
        for one in records
    ]
    emit({"audit": records}, as_json=as_json, text=table(("at", "record", "by", "kind", "target", "what"), rows))


@audit.command("state")
@server_options
@json_option
def state_(server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Show the newest checkpoint, and whether all fitted together when it was signed.

    Example: otaria audit state
    """
    found = connect(server, token_file, state).get("/audit/state")
    signed = found["checkpoint"] is not None
    rows = [
        ("checkpoint", f"{found['checkpoint']}, {stamp(found['signed_at'])}" if signed else "none yet"),
        ("its hash", found["hash"]),
        ("key", found["keyid"]),
        ("records", found["records"]),
        ("since", found["since"]),
        ("removed by rule", found["gone"]),
        ("fits together", "no" if found["faults"] else "yes" if signed else ""),
        *[("fault", fault["text"]) for fault in found["faults"]],
    ]
    emit(found, as_json=as_json, text=table(("", ""), rows))
    if found["faults"]:
        raise click.exceptions.Exit(1)


@audit.command()
@click.option("-o", "out", type=click.Path(path_type=Path), required=True, help="The key file to write.")
@server_options
@json_option
def key(out: Path, server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Fetch the public key of checkpoints. Compare its id with what the server's people say, and keep it elsewhere.

    Example: otaria audit key -o audit.key.json
    """
    found = connect(server, token_file, state).get("/audit/state")
    _write_new(out, key_file(key_from_dict(found["keyid"], found["key"])))  # type: ignore[arg-type]
    emit({"keyid": found["keyid"], "file": str(out)}, as_json=as_json, text=f"{out} holds the key {found['keyid']}.")


@audit.command()
@click.option("-o", "out", type=click.Path(path_type=Path), required=True, help="The file to write.")
@server_options
@json_option
def checkpoint(out: Path, server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Have a checkpoint signed now and fetch it. Kept elsewhere it pins the history up to now.

    Example: otaria audit checkpoint -o 2026-05.checkpoint.json
    """
    envelope = connect(server, token_file, state).get("/audit/checkpoint")["checkpoint"]
    if envelope is None:
        raise RefusedError("no-checkpoint", "Nothing was recorded yet, so there is nothing to sign.")
    _write_new(out, canonical(envelope) + b"\n")
    emit({"file": str(out)}, as_json=as_json, text=f"{out} holds the newest checkpoint.")


@audit.command()
@click.option(
    "-o", "out", type=click.Path(path_type=Path, allow_dash=True), required=True, help="The file to write; - is stdout."
)
@server_options
@json_option
def export(out: Path, server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Write the whole trail as lines of JSON, with its checkpoints, the newest signed now.

    Example: otaria audit export -o audit.jsonl
    """
    client, length, digest = connect(server, token_file, state), 0, hashlib.sha256()
    is_stdout = str(out) == "-"
    part = out.with_name(out.name + ".part")
    with nullcontext(sys.stdout.buffer) if is_stdout else part.open("xb") as file:
        for piece in client.pieces("/audit/export"):
            file.write(piece)
            digest.update(piece)
            length += len(piece)
    if not is_stdout:
        part.rename(out)
        value = {"file": str(out), "bytes": length, "sha256": digest.hexdigest()}
        emit(value, as_json=as_json, text=f"{out} has {length} bytes; verify it with `otaria audit verify {out}`.")


@audit.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--key",
    "keys",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="Key file of checkpoints (`otaria audit key`).",
)
@click.option(
    "--pin",
    "pins",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="A checkpoint that you kept (`otaria audit checkpoint`).",
)
@json_option
def verify(file: Path, keys: tuple[Path, ...], pins: tuple[Path, ...], as_json: bool) -> None:
    """Verify an export, without the server: finds every record that was changed, removed, moved, put in or cut off.

    Example: otaria audit verify audit.jsonl --key audit.key.json --pin 2026-05.checkpoint.json
    """
    held = [read_key_file(path)[0] for path in keys]
    verifier = Verifier({one.keyid: one for one in held}, [_read(path) for path in pins])
    with nullcontext(sys.stdin.buffer) if str(file) == "-" else file.open("rb") as source:
        for line in _lines(source):
            verifier.feed(line)
    verdict = verifier.finish()
    emit(msgspec.to_builtins(verdict), as_json=as_json)
    if not as_json:
        _say(verdict)
    if not verdict.is_whole:
        raise click.exceptions.Exit(1)


@audit.command()
@click.option("--older-than", type=Duration(), required=True, help="How old a record must be, at least a day.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@server_options
@json_option
def remove(
    older_than: int, yes: bool, server: str | None, token_file: Path | None, state: Path | None, as_json: bool
) -> None:
    """Remove old records that a checkpoint covers. What is left can be verified as before, and says what is gone.

    Example: otaria audit remove --older-than 800d
    """
    client = connect(server, token_file, state)
    if not yes:
        click.confirm("The records can't be brought back; is there an export of them?", abort=True, err=True)
    done = client.post("/audit/removal", {"older_than_s": older_than})
    emit(done, as_json=as_json, text=f"{done['records']} records were removed.")


def _say(verdict: Verdict) -> None:
    rows = [
        (name, f"{span.first} to {span.last}" if span.records else "none", span.gone or "", span.uncovered or "")
        for name, span in verdict.partitions.items()
    ]
    emit(None, as_json=False, text=table(("partition", "records", "removed by rule", "not covered yet"), rows))
    for note in verdict.notes:
        click.echo(note)
    for fault in verdict.faults:
        click.echo(f"{fault.kind}: {fault.text}", err=True)
    if verdict.more_faults:
        click.echo(f"and {verdict.more_faults} more", err=True)
    signed = f"checkpoint {verdict.trusted} of {stamp(verdict.signed_at)}" if verdict.signed_at else "no checkpoint"
    what = f"{verdict.records} records, {verdict.checkpoints} checkpoints, {signed}"
    click.echo(f"Whole: {what}." if verdict.is_whole else f"NOT whole: {what}.")


def _lines(source: IO[bytes]) -> Iterator[bytes]:
    """Lines of bounded length; one that is longer comes in pieces, which are no lines."""
    while line := source.readline(MAX_LINE_BYTES + 2):
        yield line


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _write_new(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)

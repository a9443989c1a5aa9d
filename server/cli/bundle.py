"""`otaria bundle`: updates for sites without a network, there and back."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from firmware.bundle.evidence import MAX_FILE_LINES, MAX_LINE_BYTES, MAX_TEXT_CHARS, Sent, from_text, parse_line
from firmware.errors import RefusedError
from server.cli.output import emit, json_option, table
from server.cli.rest import RestClient, connect, segment, server_options

PIECE_BYTES = 1 << 18
BATCH = 100
SUFFIX = ".jsonl"
MAX_FILES = 100_000


@click.group()
def bundle() -> None:
    """Update sites without a network: a bundle goes there on a stick, reports come back by it.

    Example: otaria bundle make --campaign spring -o spring.bundle
    """


@bundle.command()
@click.option("--campaign", "campaign_id", required=True, metavar="CAMPAIGN", help="Whose targets it is for.")
@click.option("--target", "targets", multiple=True, metavar="TARGET", help="Only this one; repeat for more.")
@click.option(
    "--label", "labels", multiple=True, metavar="NAME=VALUE", help="Only targets with this label; repeat for more."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The bundle to write."
)
@server_options
@json_option
def make(
    campaign_id: str,
    targets: tuple[str, ...],
    labels: tuple[str, ...],
    output: Path,
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Give out orders for unattended use, and write them with all that they need into one file.

    An order that is given out is a permit: its target counts as down until a report says how it ended. What is given out already
    stays as it is, so making the bundle again is harmless.

    Example: otaria bundle make --campaign spring --label site=oilrig-7 -o spring.bundle
    """
    if targets and labels:
        raise click.UsageError("Choose by --target or by --label, not by both.")
    choice: dict[str, Any] = {"targets": list(targets)} if targets else {"labels": _labels(labels)}
    client = connect(server, token_file, state)
    path = f"/campaigns/{segment(campaign_id)}/bundle"
    left_out = _give_out(client, path, choice)
    note = _fetch(client, path, choice, output)
    emit({"file": str(output), "left_out": left_out, **note}, as_json=as_json, text=_made(output, note))
    if left_out and not as_json:
        rows = [(one["target"], one["kind"], one["text"]) for one in left_out]
        emit(None, as_json=False, text=table(("left out", "kind", "why"), rows))


@bundle.command("import")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@server_options
@json_option
def import_(path: Path, server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Take in the reports on a stick: a file of them, or a folder in which they lie.

    Example: otaria bundle import /media/stick/otaria-reports
    """
    client, became = connect(server, token_file, state), list[dict[str, Any]]()
    files = _files(path)
    with _bar(len(files), "reading reports") as advance:
        for file in files:
            became += _send(client, _lines(file))
            advance(1)
    _tell(became, as_json)


@bundle.command()
@click.argument("text", metavar="TEXT|-")
@server_options
@json_option
def report(text: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Take in reports as the text that a device printed or showed as QR codes; - reads it from stdin.

    Example: otaria bundle report -
    """
    whole = sys.stdin.read(MAX_TEXT_CHARS + 1) if text == "-" else text
    _tell(_send(connect(server, token_file, state), from_text(whole)), as_json)


@bundle.command()
@click.argument("target")
@click.argument("code", nargs=-1, required=True)
@server_options
@json_option
def code(
    target: str, code: tuple[str, ...], server: str | None, token_file: Path | None, state: Path | None, as_json: bool
) -> None:
    """Take the code that a device shows: how its order ended, without a signature.

    Example: otaria bundle code gw-0007 0A4K-9TQ2-XX71-M3ZC
    """
    took = connect(server, token_file, state).post(f"/fleet/{segment(target)}/code", {"code": " ".join(code)})
    said, now = took["outcome"].replace("_", " "), took["state"].replace("_", " ")
    text = f"{target} reported {said} by code, not by signature. It is {now} now; bring its signed report when you can."
    emit(took, as_json=as_json, text=text)


def _give_out(client: RestClient, path: str, choice: dict[str, Any]) -> list[dict[str, Any]]:
    """Give out page after page; who was left out."""
    left_out: list[dict[str, Any]] = []
    after: str | None = None
    with contextlib.ExitStack() as stack:
        advance = None
        while True:
            page = client.post(f"{path}/orders", {**choice, **({"after": after} if after else {})})
            advance = advance or stack.enter_context(_bar(page["of"], "giving out orders"))
            advance(page["out"] + len(page["left_out"]))
            left_out += page["left_out"]
            after = page["next"]
            if after is None:
                return left_out


def _fetch(client: RestClient, path: str, choice: dict[str, Any], output: Path) -> dict[str, Any]:
    """Stream the bundle into its file, which appears only whole; what it says of itself."""
    output.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name[:64]}.")
    try:
        with os.fdopen(descriptor, "wb") as file, client.stream(path, choice) as (headers, pieces):
            length = 0
            with _bar(int(headers.get("X-Otaria-Bytes", "0")), "writing the bundle") as advance:
                for piece in pieces:
                    file.write(piece)
                    length += len(piece)
                    advance(len(piece))
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(output)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    note = RestClient.parsed(headers.get("X-Otaria-Note", "{}"))
    return {**note, "bytes": length}


def _made(output: Path, note: dict[str, Any]) -> str:
    until = datetime.fromtimestamp(note["usable_until"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    orders = "1 order" if note["orders"] == 1 else f"{note['orders']} orders"
    return (
        f"{output}: {orders} for {note['product']} {note['version']}, {note['bytes']} bytes. "
        f"It can be started until {until}; make it again for later."
    )


def _labels(given: tuple[str, ...]) -> dict[str, str]:
    pairs = [one.partition("=") for one in given]
    if any(not equals or not name for name, equals, _ in pairs):
        raise click.UsageError("A label is NAME=VALUE, such as site=berlin.")
    return {name: value for name, _, value in pairs}


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob(f"*{SUFFIX}") if file.is_file() and not file.is_symlink())
    if not found:
        raise RefusedError("no-reports", f"There are no reports in {path}; look for a folder otaria-reports.")
    if len(found) > MAX_FILES:
        raise RefusedError("too-large", f"There are more than {MAX_FILES} files in {path}.")
    return found


def _lines(file: Path) -> list[Sent]:
    reports: list[Sent] = []
    with file.open("rb") as lines:
        while line := lines.readline(MAX_LINE_BYTES + 1):
            if len(reports) >= MAX_FILE_LINES:
                raise RefusedError("too-large", f"{file} has more than {MAX_FILE_LINES} reports.")
            try:
                reports.append(parse_line(line))
            except RefusedError as error:
                raise RefusedError(error.kind, f"{file}, line {len(reports) + 1}: {error.text}") from error
    return reports


def _send(client: RestClient, reports: list[Sent]) -> list[dict[str, Any]]:
    became: list[dict[str, Any]] = []
    for at in range(0, len(reports), BATCH):
        batch = [{"leaf": one.leaf, "envelope": one.envelope} for one in reports[at : at + BATCH]]
        became += client.post("/reports", {"reports": batch})["reports"]
    return became


def _tell(became: list[dict[str, Any]], as_json: bool) -> None:
    """Say what became of reports; fails when any was dropped."""
    stored = [one for one in became if one["became"] == "stored"]
    repeated = [one for one in became if one["became"] == "repeated"]
    dropped = [one for one in became if one["became"] not in ("stored", "repeated")]
    targets = len({one["target"] for one in stored})
    text = (
        f"{len(stored)} reports of {targets} targets are new, {len(repeated)} were known, {len(dropped)} were dropped."
    )
    facts = {"stored": len(stored), "repeated": len(repeated), "dropped": dropped}
    emit(facts, as_json=as_json, text=text)
    if dropped:
        first = dropped[0]
        raise RefusedError(
            first["became"], f"{first['target']}: {first['text']} ({len(dropped)} reports were dropped.)"
        )


@contextlib.contextmanager
def _bar(length: int, label: str) -> Iterator[Any]:
    """Something to advance, drawn when a person watches."""
    if not sys.stderr.isatty():
        yield lambda _n: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update

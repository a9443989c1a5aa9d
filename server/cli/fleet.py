"""`otaria fleet`: the targets and their standing, and the claim tokens that let new ones in."""

import json
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from firmware.errors import RefusedError
from firmware.protocol.logs import MAX_LOG_BYTES, What
from server.cli import claims, hosts
from server.cli.authorities import ca, endpoints
from server.cli.known import known
from server.cli.output import emit, json_option, stamp, table
from server.cli.params import Duration, KeyValue
from server.cli.rest import RestClient, connect, segment, server_options
from server.cli.words import word
from server.ports import EnvelopeKind
from server.ports.querying import quoted

LOOK_AGAIN_S = 0.5


@click.group()
def fleet() -> None:
    """See the targets, and let new ones in.

    Example: otaria fleet list --version 1.1.0
    """


@fleet.command("list")
@click.option("--query", metavar="QUERY", help="Only targets that fit this, such as 'state:failed and version<2.1'.")
@click.option("--version", help="Only targets that run this version (`unknown`: none reported yet).")
@click.option("--hardware", help="Only this hardware.")
@click.option("--in-state", "wanted", metavar="STATE", help="Only targets whose last assignment is in this state.")
@click.option(
    "--label", "labels", type=KeyValue(), multiple=True, help="Only targets with this label; may be repeated."
)
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="At most this many.")
@click.option("--all", "everything", is_flag=True, help="All of them, however many.")
@server_options
@json_option
def list_(
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    query: str | None,
    everything: bool,
    version: str | None,
    hardware: str | None,
    wanted: str | None,
    labels: tuple[tuple[str, str], ...],
    limit: int,
    as_json: bool,
) -> None:
    """List targets.

    Example: otaria fleet list --query 'site:Ulm and not online:true' --in-state deferred
    """
    client = connect(server, token_file, state)
    asked = {"version": version, "hardware": hardware, "state": wanted}
    terms = [f"{field}:{quoted(value)}" for field, value in asked.items() if value is not None]
    terms += [f"label.{name}:{quoted(value)}" for name, value in labels]
    whole = " and ".join([*([f"({query})"] if query else []), *terms]) or None
    targets: list[dict[str, Any]] = []
    for page in client.pages("/fleet", None if everything else limit, query=whole):
        targets += page["targets"]
    summary = client.get("/fleet-summary")
    emit(
        {"targets": targets, "count": summary["count"], "drifted": summary["drifted"]},
        as_json=as_json,
        text=_targets_table(targets),
    )


@fleet.command()
@click.argument("target")
@server_options
@json_option
def show(target: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Show one target.

    Example: otaria fleet show gw-0007
    """
    found = connect(server, token_file, state).get(f"/fleet/{segment(target)}")
    rows = [
        (name.replace("_", " "), _plain(name, value))
        for name, value in found.items()
        if value not in (None, "", [], {})
    ]
    emit(found, as_json=as_json, text=table(("", ""), rows))


@fleet.command()
@click.argument("target")
@click.option(
    "--what",
    type=click.Choice([one.value for one in What]),
    multiple=True,
    default=("agent", "trial", "health"),
    show_default=True,
    help="Which logs; may be repeated.",
)
@click.option(
    "--max-bytes", type=click.IntRange(1024, MAX_LOG_BYTES), default=MAX_LOG_BYTES, help="At most so many bytes."
)
@click.option(
    "--expires", type=Duration(), default="7d", show_default=True, help="Wait so long for a target that sleeps."
)
@click.option("--wait", type=Duration(), default="30s", show_default=True, help="Stay so long for the answer.")
@click.option("--request", "known", metavar="REQUEST", help="Show what came of this earlier request instead.")
@server_options
@json_option
def logs(
    target: str,
    what: tuple[str, ...],
    max_bytes: int,
    expires: int,
    wait: int,
    known: str | None,
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Ask a target for its logs, and print them when they come.

    A target that sleeps is asked when it wakes; --request shows the answer then.

    Example: otaria fleet logs gw-0007 --what trial
    """
    client = connect(server, token_file, state)
    if known is None:
        body = {"what": list(what), "max_bytes": max_bytes, "expires_s": expires}
        known = str(client.post(f"/fleet/{segment(target)}/logs", body)["id"])
    end = time.monotonic() + wait
    while True:
        found = client.get(f"/logs/{segment(known)}")
        if found["state"] != "waiting" or time.monotonic() >= end:
            break
        time.sleep(LOOK_AGAIN_S)
    if found["state"] == "refused":
        raise RefusedError(found["reason_kind"], f"{target} gives no logs: {found['reason']}")
    later = f"{target} hasn't answered yet; look again with `otaria fleet logs {target} --request {known}`."
    emit(found, as_json=as_json, text=later if found["text"] is None else found["text"].rstrip("\n"))


@fleet.command()
@click.argument("target")
@click.argument("envelope", type=click.IntRange(min=1), required=False)
@click.option("--kind", type=click.Choice([kind.value for kind in EnvelopeKind]), help="Only these.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many.")
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the envelope (DSSE, JSON) to this file."
)
@server_options
@json_option
def signed(
    target: str,
    envelope: int | None,
    kind: str | None,
    limit: int,
    out: Path | None,
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """List the signed orders, permits and reports of a target, or show the one with this number: who signed it, whether the
    signature holds, what it says, and which record of the trail tells of it.

    Example: otaria fleet signed gw-0007 412 -o order.dsse.json
    """
    if out is not None and envelope is None:
        raise click.UsageError("-o writes one envelope; give its number.")
    client = connect(server, token_file, state)
    if envelope is None:
        found = client.get(f"/fleet/{segment(target)}/signed", limit=limit, kind=kind)
        rows = [
            (one["id"], one["kind"], stamp(one["at"]), one["campaign"] or "", one["hash"][:16], one["keyid"][:16])
            for one in found["signed"]
        ]
        emit(found, as_json=as_json, text=table(("number", "kind", "when", "campaign", "hash", "key"), rows))
        return
    one = client.get(f"/fleet/{segment(target)}/signed/{envelope}")
    if out is not None:
        out.write_text(json.dumps(one["envelope"]))
    facts = [
        ("kind", one["kind"]),
        ("when", stamp(one["at"])),
        ("signature", "holds" if one["verified"] else f"not verified: {one['why']}"),
        ("key", one["keyid"]),
        ("hash", one["hash"]),
        ("record", "none" if one["record"] is None else one["record"]),
        ("says", json.dumps(one["says"], indent=2)),
    ]
    emit(one, as_json=as_json, text=table(("", ""), facts))


def _stand(step: str, target: str, reason: str, client: RestClient, as_json: bool) -> None:
    found = client.post(f"/fleet/{segment(target)}/{step}", {"reason": reason})
    emit(found, as_json=as_json, text=f"{target} is {found['status']}.")


_reason_option = click.option("--reason", default="", help="Why, for the trail.")


@fleet.command()
@click.argument("target")
@_reason_option
@server_options
@json_option
def quarantine(
    target: str, reason: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool
) -> None:
    """Stop a target at once: it is not heard, served or permitted anything until it is released.

    Example: otaria fleet quarantine d-abcdefghij --reason "reports from two places"
    """
    _stand("quarantine", target, reason, connect(server, token_file, state), as_json)


@fleet.command()
@click.argument("target")
@_reason_option
@server_options
@json_option
def release(
    target: str, reason: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool
) -> None:
    """Lift a target's quarantine.

    Example: otaria fleet release d-abcdefghij --reason "the copied card was destroyed"
    """
    _stand("release", target, reason, connect(server, token_file, state), as_json)


@fleet.command()
@click.argument("target")
@_reason_option
@server_options
@json_option
def revoke(
    target: str, reason: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool
) -> None:
    """Shut a target out for ever, such as one that was lost or scrapped; it no longer counts against any budget.

    Example: otaria fleet revoke d-abcdefghij --reason stolen
    """
    _stand("revoke", target, reason, connect(server, token_file, state), as_json)


@fleet.command()
@click.argument("target")
@_reason_option
@server_options
@json_option
def decommission(
    target: str, reason: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool
) -> None:
    """Take a target out of the fleet for ever, in order: its part in every campaign ends, its order is withdrawn, its
    certificate is revoked and its connection ended. What it did stays on the trail.

    Example: otaria fleet decommission d-abcdefghij --reason "the pump was replaced"
    """
    _stand("decommission", target, reason, connect(server, token_file, state), as_json)


@fleet.group()
def token() -> None:
    """Claim tokens: what a new device enrols with.

    Example: otaria fleet token create --uses 20 --label site=berlin
    """


@token.command()
@click.option(
    "--uses", type=click.IntRange(1, 100_000), default=1, show_default=True, help="How many devices it lets in."
)
@click.option("--expires", type=Duration(), default="1d", show_default=True, help="How long it is good for.")
@click.option("--label", "labels", type=KeyValue(), multiple=True, help="A label for each of them; may be repeated.")
@click.option(
    "--from",
    "table_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A token for each row of this CSV file: `uses` (if there), and a label for each other column.",
)
@server_options
@json_option
def create(
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    uses: int,
    expires: int,
    labels: tuple[tuple[str, str], ...],
    table_file: Path | None,
    as_json: bool,
) -> None:
    """Make a claim token. It is printed once and kept nowhere.

    With --from one for each row of a CSV file, printed as the same rows with the column `token`.

    Example: otaria fleet token create --uses 20 --expires 12h --label site=berlin
    """
    client = connect(server, token_file, state)
    if table_file is None:
        made = client.post("/claim-tokens", {"uses": uses, "expires_s": expires, "labels": dict(labels)})
        emit(made, as_json=as_json, text=made["token"])
        return
    rows = claims.read(table_file, uses)
    tokens = []
    with Progress(console=Console(stderr=True), disable=as_json, transient=True) as progress:
        for row in progress.track(rows, description="tokens"):
            body = {"uses": row.uses, "expires_s": expires, "labels": {**dict(labels), **row.labels}}
            tokens.append(client.post("/claim-tokens", body))
    emit({"claim_tokens": tokens}, as_json=as_json, text=claims.with_tokens(rows, [one["token"] for one in tokens]))


@token.command("list")
@server_options
@json_option
def list_tokens(server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """List claim tokens, without their secrets.

    Example: otaria fleet token list
    """
    answer = {"claim_tokens": connect(server, token_file, state).whole("/claim-tokens", "claim_tokens")}
    rows = [
        (one["id"], one["uses_left"], stamp(one["expires_at"]), _pairs(one["labels"]), one["created_by"])
        for one in answer["claim_tokens"]
    ]
    emit(answer, as_json=as_json, text=table(("id", "uses left", "expires", "labels", "made by"), rows))


def _targets_table(targets: list[dict[str, Any]]) -> Any:
    now = time.time()
    rows = [
        (
            one["id"],
            one["running_version"] or "unknown",
            one["running_slot"] or "",
            one["state"] or "no order",
            one["hardware"],
            "online" if one["presence"] else "offline",
            f"{int(now - one['last_report_at'])} s ago" if one["last_report_at"] else "never",
        )
        for one in targets
    ]
    return table(("target", "runs", "slot", "state", "hardware", "link", "last report"), rows)


def _plain(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return _pairs(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return stamp(value) if name.endswith("_at") else str(value)


def _pairs(labels: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(labels.items()))


fleet.add_command(hosts.hosts)
fleet.add_command(hosts.packages)
fleet.add_command(ca)
fleet.add_command(endpoints)
fleet.add_command(known)
fleet.add_command(word)

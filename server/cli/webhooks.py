"""`otaria webhook`: other systems that are told what happens."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from firmware.errors import OtariaError
from server.cli.output import emit, json_option, stamp, table
from server.cli.params import Duration
from server.cli.rest import RestClient, connect, segment, server_options

TEST_S = 20.0
LOOK_EVERY_S = 0.2
SHOWN = 20


@click.group()
def webhook() -> None:
    """Tell other systems what happens: campaigns, gates, targets, approvals, keys.

    Example: otaria webhook add pager https://hooks.example.org/otaria --type "otaria.gate.*"
    """


@webhook.command()
@click.argument("name")
@click.argument("url")
@click.option("--type", "types", multiple=True, help="Types of events, such as otaria.gate.*; without it, every type.")
@server_options
@json_option
def add(
    name: str,
    url: str,
    types: tuple[str, ...],
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Add one; it is told what happens from now on. Its secret is printed once.

    Example: otaria webhook add pager https://hooks.example.org/otaria --type "otaria.approval.*" > pager.secret
    """
    made = connect(server, token_file, state).post("/webhooks", {"name": name, "url": url, "types": list(types)})
    emit(made, as_json=as_json, text=made["secret"])


@webhook.command("list")
@server_options
@json_option
def list_(server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """List webhooks, and how each fares.

    Example: otaria webhook list
    """
    answer = {"webhooks": connect(server, token_file, state).whole("/webhooks", "webhooks")}
    rows = [
        (one["name"], one["url"], ", ".join(one["types"]) or "everything", one["state"], _fares(one))
        for one in answer["webhooks"]
    ]
    emit(answer, as_json=as_json, text=table(("name", "url", "types", "state", "fares"), rows))


@webhook.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(1, 1000), default=SHOWN, show_default=True, help="Deliveries to show.")
@click.option("--failed", is_flag=True, help="Only deliveries that were given up.")
@server_options
@json_option
def show(
    name: str,
    limit: int,
    failed: bool,
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Show one with its latest deliveries and what was answered.

    Example: otaria webhook show pager --failed
    """
    client = connect(server, token_file, state)
    one = client.get(f"/webhooks/{segment(name)}")
    only = "given_up" if failed else None
    found = client.get(f"/webhooks/{segment(name)}/deliveries", limit=limit, state=only)["deliveries"]
    title = f"{name}: {one['state']}, {one['waiting']} waiting. {one['reason'] or _fares(one)}"
    emit({**one, "deliveries": found}, as_json=as_json, text=_deliveries(found, title))


@webhook.command()
@click.argument("name")
@server_options
@json_option
def test(name: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Send one event of the type otaria.webhook.test and say what was answered; exit code 1 unless it was taken.

    Example: otaria webhook test pager
    """
    client = connect(server, token_file, state)
    sent = client.post(f"/webhooks/{segment(name)}/test")
    done = _outcome(client, name, sent)
    is_taken = done["state"] == "delivered"
    emit(done, as_json=as_json, text=f"{name} answered {done['code']} to {done['event']}." if is_taken else None)
    if not is_taken:
        answer = f"status {done['code']}" if done["code"] is not None else done["said"] or "nothing yet"
        raise OtariaError("not-delivered", f"{name} did not take it: {answer}.")


@webhook.command()
@click.argument("name")
@click.argument("event")
@server_options
@json_option
def replay(
    name: str, event: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool
) -> None:
    """Send an event again, under the same id.

    Example: otaria webhook replay pager evt-1042-3f2a9c0d11e4b76a
    """
    sent = connect(server, token_file, state).post(f"/webhooks/{segment(name)}/replay", {"event": event})
    emit(sent, as_json=as_json, text=f"{event} goes to {name} again.")


@webhook.command()
@click.argument("name")
@click.option("--reason", default="", help="Why, for the trail.")
@server_options
@json_option
def pause(
    name: str, reason: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool
) -> None:
    """Tell it nothing until it is resumed; what happens meanwhile is told then.

    Example: otaria webhook pause pager --reason "the pager moves"
    """
    body = {"state": "paused", "reason": reason}
    answer = connect(server, token_file, state).patch(f"/webhooks/{segment(name)}", body)
    emit(answer, as_json=as_json, text=f"{name} is paused.")


@webhook.command()
@click.argument("name")
@click.option("--skip", is_flag=True, help="Leave out what happened meanwhile.")
@click.option("--reason", default="", help="Why, for the trail.")
@server_options
@json_option
def resume(
    name: str,
    skip: bool,
    reason: str,
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Go on where it stopped, by a person or by itself.

    Example: otaria webhook resume pager --skip
    """
    body = {"state": "on", "reason": reason, "skip": skip}
    answer = connect(server, token_file, state).patch(f"/webhooks/{segment(name)}", body)
    emit(answer, as_json=as_json, text=f"{name} is on.")


@webhook.command()
@click.argument("name")
@click.option("--url", help="Send there instead.")
@click.option("--type", "types", multiple=True, help="Tell these types of events instead.")
@click.option("--all-types", is_flag=True, help="Tell every type of event.")
@click.option("--new-secret", is_flag=True, help="Renew its secret, which is printed once.")
@click.option(
    "--overlap", type=Duration(), help="How long the old secret signs beside the new one; without it, not at all."
)
@click.option("--forget-old-secret", is_flag=True, help="Let only the present secret sign from now on.")
@server_options
@json_option
def change(
    name: str,
    url: str | None,
    types: tuple[str, ...],
    all_types: bool,
    new_secret: bool,
    overlap: int | None,
    forget_old_secret: bool,
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Send elsewhere, tell something else, or renew the secret.

    Example: otaria webhook change pager --new-secret --overlap 24h > pager.secret
    """
    if types and all_types:
        raise click.UsageError("--type and --all-types exclude each other.")
    if overlap is not None and not new_secret:
        raise click.UsageError("--overlap goes with --new-secret.")
    if new_secret and forget_old_secret:
        raise click.UsageError("Without --overlap a --new-secret ends the old one by itself.")
    body: dict[str, Any] = {"new_secret": new_secret, "url": url, "forget_old_secret": forget_old_secret}
    if overlap is not None:
        body["overlap_s"] = overlap
    if types or all_types:
        body["types"] = list(types)
    answer = connect(server, token_file, state).patch(f"/webhooks/{segment(name)}", body)
    emit(answer, as_json=as_json, text=answer["secret"] or f"{name} was changed.")


@webhook.command()
@click.argument("name")
@server_options
@json_option
def remove(name: str, server: str | None, token_file: Path | None, state: Path | None, as_json: bool) -> None:
    """Forget one, with its deliveries.

    Example: otaria webhook remove pager
    """
    answer = connect(server, token_file, state).delete(f"/webhooks/{segment(name)}", {})
    emit(answer, as_json=as_json, text=f"{name} is told nothing any more.")


def _outcome(client: RestClient, name: str, sent: Mapping[str, Any]) -> dict[str, Any]:
    """A delivery once it was tried, or as it is after a while."""
    end = time.monotonic() + TEST_S
    while True:
        rows = client.get(f"/webhooks/{segment(name)}/deliveries")["deliveries"]
        done = next((dict(row) for row in rows if row["id"] == sent["id"]), dict(sent))
        if done["state"] != "waiting" or time.monotonic() > end:
            return done
        time.sleep(LOOK_EVERY_S)


def _deliveries(found: list[dict[str, Any]], title: str) -> Any:
    rows = [
        (one["event"], one["type"], stamp(one["made_at"]), f"{one['state']} ({one['attempts']})", _answer(one))
        for one in found
    ]
    out = table(("event", "type", "when", "state (tries)", "answer"), rows, title=title)
    out.columns[0].no_wrap = True  # it is what `replay` takes
    return out


def _answer(one: Mapping[str, Any]) -> str:
    return f"{'' if one['code'] is None else one['code']} {one['said']}".strip()


def _fares(one: Mapping[str, Any]) -> str:
    until = one["old_secret_until"]
    beside = f"; the old secret signs until {stamp(until)}" if until is not None and until > time.time() else ""
    return _last(one) + beside


def _last(one: Mapping[str, Any]) -> str:
    if one["failing_since"] is not None:
        return f"takes nothing since {stamp(one['failing_since'])}"
    return f"took one {stamp(one['delivered_at'])}" if one["delivered_at"] is not None else "was sent nothing yet"

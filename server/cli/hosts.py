"""`otaria fleet packages` and `otaria fleet hosts`: what hosts have, as they told it."""

from pathlib import Path
from typing import Any

import click

from server.cli.output import emit, json_option, stamp, table
from server.cli.rest import connect, segment, server_options


@click.command()
@click.argument("target")
@click.option("--pending", "which", flag_value="pending", help="Only what is offered newer.")
@click.option("--security", "which", flag_value="security", help="Only what a security archive offers.")
@click.option(
    "--changed", "which", flag_value="changed", help="Only what somebody changed since the committed patch set."
)
@server_options
@json_option
def packages(
    target: str, which: str | None, server: str | None, token_file: Path | None, state: Path | None, as_json: bool
) -> None:
    """Show what a host has: its packages, what is pending, the kernel, what waits for a restart.

    Example: otaria fleet packages web-1 --security
    """
    found = connect(server, token_file, state).get(f"/fleet/{segment(target)}/packages")
    if which is not None:
        found = {"target": target, which: _chosen(found, which)}
    if as_json:
        emit(found, as_json=True)
        return
    if which is None:
        emit(found, as_json=False, text=_summary(found))
        emit(found, as_json=False, text=_packages(found["packages"]))
    elif which == "changed":
        rows = [(one["name"], one["arch"], one["was"] or "absent", one["now"] or "absent") for one in found[which]]
        emit(found, as_json=False, text=table(("package", "arch", "was", "is"), rows) if rows else "Nothing changed.")
    else:
        emit(found, as_json=False, text=_offers(found[which]) if found[which] else "Nothing is pending.")


@click.command()
@click.option("--package", metavar="SOURCE", help="Only hosts that have packages of this source package.")
@click.option("--below", metavar="VERSION", help="With --package: only in versions below this one.")
@click.option("--security", is_flag=True, help="Only hosts with pending security updates.")
@server_options
@json_option
def hosts(
    package: str | None,
    below: str | None,
    security: bool,
    server: str | None,
    token_file: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """List hosts by what they have.

    Example: otaria fleet hosts --package openssl --below 3.0.17-1~deb12u2
    """
    if below is not None and package is None:
        raise click.UsageError("--below goes with --package.")
    asked = {"source": package, "below": below, "security": "true" if security else None}
    found: list[dict[str, Any]] = []
    for page in connect(server, token_file, state).pages("/hosts", None, **asked):
        found += page["hosts"]
    rows = [
        (one["target"], one["facts"]["kernel"], one["pending"], one["security"], _versions(one), _restart(one["facts"]))
        for one in found
    ]
    shown = table(("host", "kernel", "pending", "security", "has", "restart"), rows)
    emit({"hosts": found}, as_json=as_json, text=shown if rows else "No host fits.")


def _chosen(found: dict[str, Any], which: str) -> list[dict[str, Any]]:
    if which == "changed":
        return list(found["facts"]["drift"])
    return [one for one in found["pending"] if which == "pending" or one["is_security"]]


def _summary(found: dict[str, Any]) -> str:
    facts, drift = found["facts"], found["facts"]["drift"]
    security = sum(one["is_security"] for one in found["pending"])
    newest = (
        f", {facts['newest_kernel']} is the newest" if facts["newest_kernel"] not in (None, facts["kernel"]) else ""
    )
    lines = [
        f"{found['target']}, as told {stamp(found['told_at'])}: {len(found['packages'])} packages, "
        f"{len(found['pending'])} pending, {security} of them for security.",
        f"Kernel {facts['kernel']} runs{newest}. Restart: {_restart(facts) or 'not needed'}.",
    ]
    if drift:
        lines.append(f"{len(drift)} packages are not as the committed set has them; --changed shows them.")
    if facts["left_out"]:
        lines.append(f"{facts['left_out']} packages could not be told.")
    return "\n".join(lines)


def _restart(facts: dict[str, Any]) -> str:
    services = facts["services_to_restart"]
    return facts["restart_needed"] or (f"services {', '.join(services)}" if services else "")


def _packages(found: list[dict[str, Any]]) -> Any:
    rows = [
        (
            one["name"],
            one["arch"],
            one["version"],
            one["source"],
            ", ".join(word for word in ("held" if one["held"] else "", one["unsound"]) if word),
        )
        for one in found
    ]
    return table(("package", "arch", "version", "source", ""), rows)


def _offers(found: list[dict[str, Any]]) -> Any:
    rows = [
        (one["name"], one["arch"], one["before"], one["version"], "security" if one["is_security"] else "")
        for one in found
    ]
    return table(("package", "arch", "has", "offered", ""), rows)


def _versions(one: dict[str, Any]) -> str:
    return ", ".join(sorted({f"{it['name']} {it['version']}" for it in one["found"]}))

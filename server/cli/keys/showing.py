"""`otaria keys show`: who may sign what, until when, and what somebody should look at."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from tuf.api.metadata import Role, Root, Signed

from firmware.catalogue.ceremony import ONLINE
from firmware.catalogue.describe import diff
from firmware.catalogue.keyfiles import Keyring
from firmware.catalogue.proposal import Proposal, decode
from firmware.catalogue.publish import Repository
from firmware.catalogue.signers import key_name
from server.cli.keys.asking import workspace
from server.cli.output import emit, json_option, table

SOON_S = 30 * 86400


@click.command()
@click.argument("path", metavar="DIR|PROPOSAL", type=click.Path(path_type=Path, exists=True))
@json_option
def show(path: Path, as_json: bool) -> None:
    """Show the roles of the catalogue in DIR (keys, thresholds, versions, expiry, which keys are here, what to look at), or
    what a proposal changes and who signed it.

    Example: otaria keys show acme
    """
    if path.is_file():
        proposal = decode(path.read_bytes())
        facts = describe_proposal(proposal)
        emit(facts, as_json=as_json, text=_proposal_text(facts))
        return
    facts = describe(workspace(path), path)
    emit(facts, as_json=as_json, text=_shown(facts))
    if not as_json:
        for warning in facts["warnings"]:
            click.secho(f"! {warning}", fg="yellow")


def describe(repository: Repository, directory: Path, *, now: float | None = None) -> dict[str, Any]:
    """The roles of a catalogue and the keys of them in DIR/keys, as JSON values."""
    root, targets = repository.root(), repository.targets()
    signed: dict[str, Signed | None] = {"root": root, "targets": targets}
    signed |= {"snapshot": repository.snapshot(), "timestamp": repository.timestamp()}
    roles: dict[str, Role] = dict(root.roles)
    delegations = targets.delegations
    keys: dict[str, Any] = {**root.keys, **(delegations.keys if delegations else {})}
    for name, role in ((delegations.roles if delegations else None) or {}).items():
        roles[name] = role
        listed = f"{name}.json" in repository.snapshot().meta
        signed[name] = repository.targets(name) if listed else None
    facts: dict[str, Any] = {
        "directory": str(directory),
        "root_sha256": repository.root_sha256(),
        "products": repository.products(),
        "director_epoch": repository.director_epoch(),
        "roles": [_role(name, roles[name], entry, keys, repository.keyring) for name, entry in signed.items()],
    }
    return {**facts, "warnings": _warnings(facts["roles"], time.time() if now is None else now)}


def describe_proposal(proposal: Proposal) -> dict[str, Any]:
    """What a proposal changes, and who signed it."""
    keys = proposal.keys()
    needs = []
    for role, who, authority in proposal.needs():
        done = proposal.signed_by(role, authority)
        names = [
            {"keyid": keyid, "name": key_name(keys.get(keyid)), "signed": keyid in done} for keyid in authority.keyids
        ]
        needs.append({"role": role, "authority": who, "threshold": authority.threshold, "keys": names})
    lines = [{"mark": mark, "text": text} for mark, text in diff(proposal)]
    return {"title": proposal.title, "changes": lines, "needs": needs, "missing": proposal.missing()}


def _role(name: str, role: Role, signed: Signed | None, keys: dict[str, Any], held: Keyring) -> dict[str, Any]:
    return {
        "role": name,
        "threshold": role.threshold,
        "keys": [
            {
                "keyid": keyid,
                "name": key_name(keys.get(keyid)),
                "scheme": keys[keyid].scheme if keyid in keys else None,
                "here": held.holds(keyid),
            }
            for keyid in role.keyids
        ],
        "version": signed.version if signed else None,
        "expires": int(signed.expires.timestamp()) if signed else None,
    }


def _warnings(roles: list[dict[str, Any]], now: float) -> list[str]:
    out = []
    for role in roles:
        name, here = role["role"], [key for key in role["keys"] if key["here"]]
        if role["expires"] is not None and role["expires"] <= now:
            out.append(f"{name} has expired: devices refuse the catalogue until it is signed anew.")
        elif role["expires"] is not None and role["expires"] < now + SOON_S and name not in ONLINE:
            out.append(f"{name} expires in {int((role['expires'] - now) // 86400)} days: otaria keys renew {name}.")
        if name == Root.type and role["threshold"] < 2:
            out.append("One stolen root key is enough to take the catalogue over; raise the root threshold.")
        if name == Root.type and role["threshold"] == len(role["keys"]):
            out.append("Losing one root key is enough to lose the catalogue; add a root key.")
        if name == Root.type and len(here) >= role["threshold"]:
            out.append("A threshold of root keys is in one place; keep them apart from each other.")
    online = [role["role"] for role in roles if role["role"] in ONLINE and any(key["here"] for key in role["keys"])]
    offline = [
        role["role"] for role in roles if role["role"] not in ONLINE and any(key["here"] for key in role["keys"])
    ]
    if online and offline:
        out.append(
            f"Keys of offline roles ({', '.join(offline)}) lie beside the online ones; move them off this machine."
        )
    return out


def _shown(facts: dict[str, Any]) -> Table:
    rows = [
        (
            role["role"],
            f"{role['threshold']} of {len(role['keys'])}",
            role["version"],
            f"{datetime.fromtimestamp(role['expires'], UTC):%Y-%m-%d %H:%M}" if role["expires"] else None,
            ", ".join(_key(key) for key in role["keys"]),
        )
        for role in facts["roles"]
    ]
    title = f"{facts['directory']}: root sha256 {facts['root_sha256'][:16]}…, director epoch {facts['director_epoch']}"
    return table(("role", "keys needed", "version", "expires (UTC)", "keys"), rows, title=title)


def _key(key: dict[str, Any]) -> str:
    name = f"{key['name']} " if key["name"] else ""
    return f"{name}{key['keyid'][:12]}{'' if key['here'] else ' (elsewhere)'}"


def _proposal_text(facts: dict[str, Any]) -> str:
    lines = [f"To {facts['title']}:", *(f"{line['mark']} {line['text']}" for line in facts["changes"])]
    for need in facts["needs"]:
        who = f" ({need['authority']})" if need["authority"] else ""
        signed = [key["name"] or key["keyid"][:12] for key in need["keys"] if key["signed"]]
        lines.append(f"{need['role']}{who}: needs {need['threshold']}, signed by {', '.join(signed) or 'nobody yet'}")
    return "\n".join(lines)

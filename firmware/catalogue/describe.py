"""What a role's metadata makes a device trust, as lines for people, and how two versions differ.

Keys and thresholds are always shown whole; a list of files only where it changes, because it may be very long.
"""

import json
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any

from tuf.api.metadata import DelegatedRole, Role, Root, TargetFile, Targets

from firmware.catalogue.client import EPOCH
from firmware.catalogue.proposal import Proposal
from firmware.catalogue.signers import key_name

Line = tuple[str, str]
"""A mark (`+` comes, `-` goes, a space stays) and a sentence."""


def diff(proposal: Proposal) -> list[Line]:
    """What a proposal changes, role by role."""
    out: list[Line] = []
    for role, metadata in proposal.roles.items():
        base = proposal.base.get(role)
        before = base.signed if base else None
        out.append((" ", f"{role}: version {before.version if before else 'none'} → {metadata.signed.version}"))
        out += [(mark, f"  {text}") for mark, text in _marked(_lines(before), _lines(metadata.signed))]
        out += [(mark, f"  {text}") for mark, text in _marked(_files(before), _files(metadata.signed)) if mark != " "]
    return [(mark, _readable(text)) for mark, text in out]


def _readable(text: str) -> str:
    """With what would move the cursor or turn the writing round spelt out: nothing may hide a line from who signs."""
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text)


def key_text(keyid: str, key: Any) -> str:
    """A key for people: who, the first digits of its id, its algorithm."""
    name = key_name(key)
    return f"{name + ' ' if name else ''}{keyid[:16]} ({key.scheme})"


def _lines(signed: Root | Targets | None) -> list[str]:
    if signed is None:
        return []
    if isinstance(signed, Root):
        return [
            line for name in (Root.type, *sorted(set(signed.roles) - {Root.type})) for line in _root_role(signed, name)
        ]
    return [*_epoch(signed), *_delegations(signed), f"expires {signed.expires:%Y-%m-%d}", *_unknown(signed)]


def _root_role(root: Root, name: str) -> Iterator[str]:
    yield from _role(name, root.roles[name], root.keys)
    if name == Root.type:
        yield f"expires {root.expires:%Y-%m-%d}"
        if not root.consistent_snapshot:
            yield "files without versions in their names"
        yield from _unknown(root)


def _epoch(targets: Targets) -> Iterator[str]:
    if EPOCH in targets.unrecognized_fields:
        yield f"director epoch {targets.unrecognized_fields[EPOCH]}"


def _unknown(signed: Root | Targets) -> Iterator[str]:
    for field, value in sorted(signed.unrecognized_fields.items()):
        if field != EPOCH:
            yield f"{field}: {json.dumps(value, sort_keys=True, ensure_ascii=False)}"


def _delegations(targets: Targets) -> Iterator[str]:
    delegations = targets.delegations
    if delegations is None:
        return
    for name, role in (delegations.roles or {}).items():
        paths = ", ".join(role.paths or _prefixed(role)) or "no paths"
        yield from _role(
            name, role, delegations.keys, f" over {paths}{'' if role.terminating else ', not terminating'}"
        )
    bins = delegations.succinct_roles
    if bins is not None:
        yield from _role(f"{1 << bins.bit_length} hash bins {bins.name_prefix}-…", bins, delegations.keys)


def _prefixed(role: DelegatedRole) -> list[str]:
    return [f"paths whose sha256 begins with {prefix}" for prefix in role.path_hash_prefixes or ()]


def _role(name: str, role: Role, keys: dict[str, Any], more: str = "") -> Iterator[str]:
    yield f"{name}: {role.threshold} of {len(role.keyids)} keys{more}"
    for keyid in role.keyids:
        yield f"  {name} key {key_text(keyid, keys[keyid])}" if keyid in keys else f"  {name} key {keyid} (unknown)"


def _files(signed: Root | Targets | None) -> list[str]:
    if not isinstance(signed, Targets):
        return []
    return [
        f"file {path}, {target.length} bytes, {' '.join(f'{kind} {value}' for kind, value in target.hashes.items())}"
        f"{_more(target)}"
        for path, target in sorted(signed.targets.items())
    ]


def _more(target: TargetFile) -> str:
    fields = target.unrecognized_fields
    return f", {json.dumps(fields, sort_keys=True, ensure_ascii=False)}" if fields else ""


def _marked(old: list[str], new: list[str]) -> Iterator[Line]:
    for tag, a_from, a_to, b_from, b_to in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            yield from ((" ", text) for text in old[a_from:a_to])
            continue
        yield from (("-", text) for text in old[a_from:a_to])
        yield from (("+", text) for text in new[b_from:b_to])

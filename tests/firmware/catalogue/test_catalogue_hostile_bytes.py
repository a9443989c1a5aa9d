"""Whatever bytes a server sends: a typed refusal, never another exception, and nothing believed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from firmware.catalogue.metadata import parse, require_threshold
from firmware.catalogue.trust import Limits, Trust
from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind

KINDS: dict[str, Any] = {
    "1.root.json": Root,
    "timestamp.json": Timestamp,
    "1.snapshot.json": Snapshot,
    "1.targets.json": Targets,
}
junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 65), 1 << 65)
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["", "1.0", "2027-01-01T00:00:00Z", "ecdsa", "targets", "[", "*", "../x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("name", KINDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_metadata_is_refused_or_parsed_but_never_crashes(lab: Any, name: str, data: st.DataObject) -> None:
    value = json.loads((lab.metadata / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        mutate(value, data)
    raw = json.dumps(value).encode()
    kind = None
    try:
        parsed = parse(raw, KINDS[name], "mutated", max_bytes=1 << 20)
        require_threshold(lab.repository.root(), "timestamp", parsed)
    except RefusedError as error:
        kind = error.kind
    assert kind in (None, ReasonKind.CATALOGUE_REFUSED)


@pytest.mark.parametrize("name", KINDS)
def test_metadata_of_one_kind_is_not_read_as_another(lab: Any, name: str) -> None:
    """Even where one key signs two roles, the type inside keeps them apart."""
    data = (lab.metadata / name).read_bytes()
    for kind in KINDS.values():
        if kind is not KINDS[name]:
            with pytest.raises(RefusedError, match=f"not {kind.type} metadata"):
                parse(data, kind, "other", max_bytes=1 << 20)


@given(raw=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_arbitrary_bytes_are_refused(raw: bytes) -> None:
    for kind in KINDS.values():
        with pytest.raises(RefusedError):
            parse(raw, kind, "junk", max_bytes=1 << 20)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_change_to_signed_metadata_is_believed(lab: Any, name: str, data: st.DataObject) -> None:
    """Any change below `signed` that parses breaks the signatures."""
    value = json.loads((lab.metadata / name).read_bytes())
    before = json.dumps(value["signed"])
    mutate(value["signed"], data)
    if json.dumps(value["signed"]) == before:
        return
    raw = json.dumps(value).encode()
    trust = Trust(lab.repository.root_bytes(), now=lab.NOW, limits=Limits(), cached=True)
    take = {
        "1.root.json": trust.add_root,
        "timestamp.json": trust.add_timestamp,
        "1.snapshot.json": trust.offer_stored_snapshot,
        "1.targets.json": trust.add_targets,
    }[name]
    with pytest.raises(RefusedError):
        take(raw)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda value: value["signed"].update(version="1"), "not valid"),
        (lambda value: value["signed"].update(version=True), "not an integer"),
        (lambda value: value["signed"].update(version=0), "not valid"),
        (lambda value: value["signed"].update(spec_version="2.0"), "not valid"),
        (lambda value: value["signed"].update(expires="tomorrow"), "not valid"),
        (lambda value: value["signed"].update(x=1.5), "not valid"),
        (lambda value: value.update(signatures=value["signatures"] * 2), "not valid"),
        (lambda value: value.update(signatures=[{"keyid": str(n), "sig": ""} for n in range(300)]), "not valid"),
        (lambda value: value["signed"].pop("meta"), "not valid"),
    ],
)
def test_malformed_fields_are_refused_with_a_reason(lab: Any, change: Any, reason: str) -> None:
    value = json.loads(Path(lab.metadata / "timestamp.json").read_bytes())
    change(value)
    lab.served["timestamp.json"] = json.dumps(value).encode()
    with pytest.raises(RefusedError, match=reason):
        lab.client().refresh(lab.NOW)


def mutate(value: Any, data: st.DataObject) -> None:
    """Replace, remove or add one thing somewhere in a JSON value."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        if isinstance(value[key], dict | list) and data.draw(st.booleans()):
            value = value[key]
            continue
        if isinstance(value, dict) and data.draw(st.booleans()):
            value.pop(key)
        else:
            value[key] = data.draw(junk)
        return

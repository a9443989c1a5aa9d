"""Lines of the trail as CloudEvents."""

import json
import re
from pathlib import Path

import pytest
from msgspec.structs import asdict

from firmware.errors import RefusedError
from server.identity.authorities_service import CaStep
from server.planner.words import AssignmentState
from server.ports import AgentStatus, AuditRecord
from server.webhooks.events import TESTS, TYPES, Event, check_patterns, event_of, id_of, line_of, matches, type_of

SERVER = Path(__file__).parents[3] / "server"
LINE = AuditRecord(
    id=1042,
    at=1_800_000_000.25,
    kind="gate-failed",
    text="Cohort canary failed.",
    change_id="chg-7",
    campaign="spring",
    data={"n": 3},
)


def changed(**values: object) -> AuditRecord:
    return AuditRecord(**{**vars(LINE), **values})


def test_an_event_says_what_its_line_says() -> None:
    event = event_of(LINE, "/otaria")
    assert json.loads(event.body) == {
        "specversion": "1.0",
        "id": event.id,
        "source": "/otaria",
        "type": "otaria.gate.failed",
        "time": "2027-01-15T08:00:00.250Z",
        "subject": "campaigns/spring",
        "changeid": "chg-7",
        "datacontenttype": "application/json",
        "data": {
            "line": 1042,
            "kind": "gate-failed",
            "text": "Cohort canary failed.",
            "actor": "planner",
            "change_id": "chg-7",
            "campaign": "spring",
            "target": None,
            "details": {"n": 3},
        },
    }
    assert asdict(event) == asdict(Event(id=id_of(LINE), type="otaria.gate.failed", line=1042, body=event.body))
    assert json.loads(event_of(changed(target="gw-1"), "/").body)["subject"] == "targets/gw-1"
    assert "subject" not in json.loads(event_of(changed(campaign=None), "/").body)


def test_an_id_is_of_one_line_only() -> None:
    """A server that was restored counts its lines from an earlier one on."""
    others = [
        changed(text="Cohort wave failed."),
        changed(at=1_800_000_001.0),
        changed(id=1043),
        changed(target="gw-1"),
    ]
    assert len({id_of(one) for one in (LINE, *others)}) == 5
    assert id_of(changed()) == id_of(LINE)
    assert line_of(id_of(LINE)) == 1042


@pytest.mark.parametrize(
    "text",
    [
        "",
        "evt",
        "evt-1",
        "evt-x-0123456789abcdef",
        "evt-1-0",
        f"evt-{'9' * 19}-0123456789abcdef",
        "evt-²-0123456789abcdef",
    ],
)
def test_what_is_no_id_names_no_line(text: str) -> None:
    assert line_of(text) is None


def test_every_kind_that_is_told_is_written_somewhere() -> None:
    written = {f"target-{status}" for status in AgentStatus} | {f"ca-{step}" for step in CaStep}
    written |= {state.replace("_", "-") for state in AssignmentState}
    for path in SERVER.rglob("*.py"):
        if path.name != "events.py" or path.parent.name != "webhooks":
            written |= set(re.findall(r'"([a-z-]+)"', path.read_text()))
    assert {*TYPES, *TESTS} - written == set()


def test_what_is_told_by_nobody_has_no_type() -> None:
    assert type_of(changed(kind="delta-made")) is None
    assert type_of(changed(kind="webhook-tested")) is None, "only the webhook that is tested is told"


@pytest.mark.parametrize(
    ("patterns", "told"),
    [
        ((), True),
        (("otaria.gate.*",), True),
        (("otaria.gate.failed",), True),
        (("otaria.*",), True),
        (("otaria.gate.fail",), False),
        (("otaria.approval.*", "otaria.target.*"), False),
    ],
)
def test_patterns_choose(patterns: tuple[str, ...], told: bool) -> None:
    assert matches(patterns, "otaria.gate.failed") is told


def test_patterns_that_would_never_match_are_refused() -> None:
    assert check_patterns(["otaria.gate.*", "otaria.gate.*", "otaria.approval.overdue"]) == (
        "otaria.gate.*",
        "otaria.approval.overdue",
    )
    for wrong, hint in (
        ("otaria.gates.*", "otaria.gate.*"),
        ("otaria.gate.faild", "otaria.gate.failed"),
        ("*", "there are"),
        ("zzz", "otaria.campaign.*"),
    ):
        with pytest.raises(RefusedError, match=hint.replace("*", r"\*").replace(".", r"\.")) as refused:
            check_patterns([wrong])
        assert refused.value.kind == "unknown-type"
    with pytest.raises(RefusedError) as refused:
        check_patterns(["otaria.*"] * 65)
    assert refused.value.kind == "too-large"

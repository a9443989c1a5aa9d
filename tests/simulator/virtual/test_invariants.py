"""The end of a run: every way in which a target's state may not agree with what its device is, and those in which it may."""

from collections.abc import Mapping, Sequence

import pytest

from server.planner.rows import AssignmentRow
from server.planner.words import AssignmentState
from simulator.virtual.device import Device, Image, Link
from simulator.virtual.invariants import Books
from simulator.virtual.presence import Presence

NOW = 1000.0
OLD, NEW = (Image(version=version, sha256=version, product="lamp", size_bytes=1) for version in ("1.0", "2.0"))


class Nobody:
    """No groups."""

    members: Mapping[str, Sequence[str]] = {}

    def away(self, key: str) -> Sequence[str]:
        return ()


def device(image: Image, how: str = "up") -> Device:
    made = Device(
        id="d-1",
        seed=1,
        hardware="lamp-r1",
        site="s",
        image=image,
        presence=Presence(seed=1, week=(1.0,) * 168),
        link=Link(),
        later=lambda at, what: None,
        say=lambda one, event: None,
    )
    made.by = "spring"
    made.is_bricked, made.is_down, made.is_shut_out = how == "bricked", how == "down", how == "shut out"
    made._said = NOW + 1 if how == "speaking" else 0.0
    return made


def told(state: AssignmentState, is_: Device, *, campaign: str = "spring", back_reason: str = "") -> list[str]:
    row = AssignmentRow(campaign=campaign, target="d-1", cohort=0, rank=0, state=state, back_reason=back_reason)
    books = Books(Nobody(), {})
    books.end([(row, NEW.sha256)], {"d-1": is_}, NOW)
    assert books.broken == len(books.violations)
    return [text.removeprefix("After 1000 s: ") for text in books.violations]


S = AssignmentState


@pytest.mark.parametrize(
    ("state", "image", "how", "text"),
    [
        (S.VERIFIED, OLD, "up", "d-1 is verified and runs 1.0 (up)."),
        (S.VERIFIED, NEW, "down", "d-1 is verified and runs 2.0 (down)."),
        (S.COMMITTED, NEW, "bricked", "d-1 is committed and runs 2.0 (bricked)."),
        (S.MISSING, NEW, "up", "d-1 is missing though it runs the release and said so."),
        (S.ACTIVATING, NEW, "up", "d-1 is activating though it runs the release and said so."),
        (S.TRIAL, NEW, "up", "d-1 is trial though it runs the release and said so."),
        (S.FELL_BACK, OLD, "bricked", "d-1 is fell_back and bricked."),
        (S.STAGED, NEW, "bricked", "d-1 is staged and bricked."),
        (S.FELL_BACK, NEW, "up", "d-1 is fell_back and runs the release."),
        (S.ROLLED_BACK, NEW, "up", "d-1 is rolled_back and runs the release."),
    ],
)
def test_a_state_that_the_device_is_not_in_is_told(state: AssignmentState, image: Image, how: str, text: str) -> None:
    assert told(state, device(image, how)) == [text]
    for excused in ("speaking", "shut out"):
        quiet = device(image, excused)
        quiet.is_bricked, quiet.is_down = how == "bricked", how == "down"
        assert told(state, quiet) == []


@pytest.mark.parametrize(
    ("state", "image", "how"),
    [
        (S.VERIFIED, NEW, "up"),
        (S.MISSING, OLD, "up"),
        (S.MISSING, NEW, "bricked"),
        (S.MISSING, NEW, "down"),
        (S.FELL_BACK, OLD, "up"),
        (S.FAILED, NEW, "up"),
        (S.PLANNED, OLD, "up"),
    ],
)
def test_a_state_that_the_device_may_be_in_is_not(state: AssignmentState, image: Image, how: str) -> None:
    assert told(state, device(image, how)) == []


def test_who_goes_back_or_was_bricked_by_another_campaign_is_not_told() -> None:
    assert told(S.TRIAL, device(NEW), back_reason="It was bad.") == []
    assert told(S.STAGED, device(NEW, "bricked"), campaign="autumn") == []

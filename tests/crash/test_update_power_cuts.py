"""A whole update through the real runtime, with the power cut before, in and after every durable operation.

Loader, slots, installer, journal and outbox are the real ones over a disk that loses un-synced writes. Whatever the cut: the
running slot's bytes never change, the device ends where the order (or its health checks) leads, every report arrives once,
and no seq ever carries two contents (`Server` asserts that and the absence of gaps).
"""

from collections.abc import Iterator

import pytest

from device_agent.core.states import Committed, FellBack
from device_agent.journal import Record
from device_agent.ports import Slot
from device_agent.runtime import Runtime
from firmware.protocol.words import Action
from tests.crash.disk import Cut, Disk, PowerCut
from tests.crash.world import BOARD, World

HOWS = ("before", "torn", "after")
KEEPS = ("none", "all", "but-one", "odd")


def world(**options: object) -> World:
    made = World(**options)  # type: ignore[arg-type]
    made.server.order(Action.INSTALL, made.new)
    return made


def clean_operations(faulty: set[str]) -> int:
    one = world(faulty=faulty)
    one.run()
    return len(one.disk.trace)


def run_with_cuts(one: World, cuts: list[Cut], keep: str) -> World:
    for cut in cuts:
        one.disk = Disk(one.disk.files, cut)
        try:
            one.run()
        except PowerCut:
            one.after_cut(keep)
            continue
        return one
    one.run()
    return one


def assert_whole(one: World, *, version: str, state: type) -> None:
    assert one.runtime is not None
    assert isinstance(one.runtime.standing.state, state), one.runtime.standing.state
    assert one.running_version() == version
    assert one.disk.files[BOARD.slot(Slot.A)].startswith(one.old.image)
    last = one.server.told[-1]
    assert last.running.version == version
    assert last.running.slot == one.boots[-1].slot.value


def every_cut(operations: int) -> Iterator[tuple[Cut, str]]:
    for at in range(1, operations + 1):
        for number, how in enumerate(HOWS):
            yield Cut(at=at, how=how), KEEPS[(at + number) % len(KEEPS)]


def test_clean_update_tells_every_step_once() -> None:
    one = world()
    one.run()
    assert_whole(one, version="2.0", state=Committed)
    assert one.server.states() == ["ordered", "downloading", "staged", "activating", "trial", "committed"]
    assert one.server.told[-1].running.rollback_available
    assert len(one.server.asks) == 1


def test_faulty_release_falls_back_and_says_why() -> None:
    one = world(faulty={"2.0"})
    one.run()
    assert_whole(one, version="1.0", state=FellBack)
    reason = one.server.told[-1].reason
    assert reason is not None
    assert (reason.kind, reason.text) == ("health-failed", "GET /health answered 500.")


def test_power_cut_at_every_operation_of_a_good_update_ends_on_the_new_release() -> None:
    operations = clean_operations(set())
    assert operations > 20
    for cut, keep in every_cut(operations):
        one = run_with_cuts(world(), [cut], keep)
        assert_whole(one, version="2.0", state=Committed)
        assert one.server.states()[-1] == "committed", (cut, keep)


def test_power_cut_at_every_operation_of_a_faulty_update_ends_on_the_old_release() -> None:
    for cut, keep in every_cut(clean_operations({"2.0"})):
        one = run_with_cuts(world(faulty={"2.0"}), [cut], keep)
        assert_whole(one, version="1.0", state=FellBack)


@pytest.mark.parametrize("second", [2, 5, 9, 14])
def test_second_power_cut_during_recovery(second: int) -> None:
    for at in range(1, clean_operations(set()) + 1, 2):
        cuts = [Cut(at=at, how=HOWS[at % 3]), Cut(at=second, how=HOWS[(at + second) % 3])]
        assert_whole(run_with_cuts(world(), cuts, KEEPS[at % 4]), version="2.0", state=Committed)


def test_reports_that_were_never_acked_survive_every_cut() -> None:
    """The server stores but does not ack until the update is over; then everything is still there and in order."""
    for at in range(1, clean_operations(set()) + 1, 3):
        one = world()
        one.server.acking = False
        one.disk = Disk(one.disk.files, Cut(at=at, how="after"))
        try:
            one.run(until=lambda one=one: isinstance(one.runtime.standing.state, Committed))  # type: ignore[misc, union-attr]
        except PowerCut:
            one.after_cut("none")
        one.server.acking, one.disk.cut = True, None
        one.run()
        assert_whole(one, version="2.0", state=Committed)


class ForgetsReports(Runtime):
    """A mutation: the outbox is not part of the durable record until the next step."""

    def _store(self, record: Record) -> None:
        before = self._record
        super()._store(Record(**{**{f: getattr(record, f) for f in record.__struct_fields__}, "outbox": before.outbox}))
        self._record = record


class ActsFirst(Runtime):
    """A mutation: nothing is durable before the commands are carried out."""

    def _store(self, record: Record) -> None:
        self._record = record


@pytest.mark.parametrize("mutation", [ForgetsReports, ActsFirst])
def test_suite_notices_a_runtime_that_is_not_durable(mutation: type[Runtime]) -> None:
    broken = 0
    for at in range(1, clean_operations(set()) + 1):
        try:
            one = run_with_cuts(world(runtime=mutation), [Cut(at=at, how="after")], "none")
            assert_whole(one, version="2.0", state=Committed)
            states = one.server.states()
            assert states[-1] == "committed"
            assert len({report.journal for report in one.server.told}) == 1
        except AssertionError:
            broken += 1
    assert broken

"""A release of three images, `root`, `boot` and `app`, with the power cut at every durable operation.

They switch together or not at all: whatever boots holds all images of one release, never some of each.
"""

import pytest

from device_agent.core.states import Committed, FellBack
from device_agent.ports import Slot
from firmware.protocol.words import Action
from tests.crash.disk import Cut, Disk
from tests.crash.test_update_power_cuts import KEEPS, assert_whole, every_cut, run_with_cuts
from tests.crash.world import BOARD, World

SETS = ("root", "boot", "app")


class Watched(World):
    """At every boot: what was selected holds one release in all its sets. After every cut: a slot whose `root` looks as if it
    could boot has all of its images."""

    def after_cut(self, keep: str) -> None:
        super().after_cut(keep)
        root = self.disk.files[BOARD.slot(Slot.B)]
        assert not root.startswith(self.new.image[:512]) or self.holds(Slot.B, self.new), (
            "root was there before the others"
        )

    def _power_on(self) -> tuple[object, str]:  # type: ignore[override]
        boot, boot_id = super()._power_on()
        assert any(self.holds(boot.slot, one) for one in (self.old, self.new)), f"a mixed slot {boot.slot} was booted"
        return boot, boot_id


def world(faulty: set[str] | None = None, unchanged: tuple[str, ...] = ()) -> World:
    made = Watched(faulty=faulty, images=SETS, unchanged=unchanged)
    made.server.order(Action.INSTALL, made.new)
    return made


def operations(faulty: set[str] | None = None) -> int:
    one = world(faulty)
    one.run()
    return len(one.disk.trace)


def test_all_images_arrive_and_are_told() -> None:
    one = world()
    one.run()
    assert_whole(one, version="2.0", state=Committed)
    assert one.holds(Slot.A, one.old)
    assert one.holds(Slot.B, one.new)
    running = one.server.told[-1].running
    assert {image.slot: image.sha256 for image in running.images} == {
        name: ref.sha256 for name, ref in one.new.refs.items()
    }
    assert (running.sha256, running.length) == (one.new.manifest.sha256, one.new.manifest.length)


def test_an_image_that_did_not_change_is_not_fetched() -> None:
    one = world(unchanged=("app",))
    one.depot.open = lambda file, *, offset, inner=one.depot.open: (
        _never(  # type: ignore[method-assign, misc]
            file, one.new.refs["app"]
        )
        or inner(file, offset=offset)
    )
    one.run()
    assert_whole(one, version="2.0", state=Committed)
    assert one.holds(Slot.B, one.new)
    staged = next(report for report in one.server.told if report.state.value == "staged")
    assert staged.evidence["copied_bytes"] == one.new.refs["app"].length


def _never(file: object, forbidden: object) -> None:
    assert file != forbidden, "an image was fetched that the active slot holds"


def test_power_cut_at_every_operation_of_a_good_update() -> None:
    for cut, keep in every_cut(operations()):
        one = run_with_cuts(world(), [cut], keep)
        assert_whole(one, version="2.0", state=Committed)
        assert one.holds(Slot.A, one.old)
        assert one.holds(Slot.B, one.new)


def test_power_cut_at_every_operation_of_a_faulty_update_falls_back_with_all_sets() -> None:
    for cut, keep in every_cut(operations({"2.0"})):
        one = run_with_cuts(world({"2.0"}), [cut], keep)
        assert_whole(one, version="1.0", state=FellBack)
        assert one.holds(Slot.A, one.old)


@pytest.mark.parametrize("second", [3, 11])
def test_second_power_cut_during_recovery(second: int) -> None:
    for at in range(1, operations() + 1, 3):
        cuts = [Cut(at=at, how="torn"), Cut(at=second, how="after")]
        one = run_with_cuts(world(), cuts, KEEPS[at % 4])
        assert_whole(one, version="2.0", state=Committed)
        assert one.holds(Slot.B, one.new)


def test_nothing_is_written_before_every_set_is_claimed() -> None:
    """`app` does not fit: no byte of the others is written, and the way back is not given up for nothing."""
    one = world()
    before = {**one.disk.files, BOARD.slot(Slot.B, "app"): bytes(100)}
    one.disk = Disk(before)
    one.run()
    last = one.server.told[-1]
    assert (last.state.value, last.reason and last.reason.kind) == ("failed", "slot-too-small")
    for name in SETS:
        assert one.disk.files[BOARD.slot(Slot.B, name)] == before[BOARD.slot(Slot.B, name)]
    assert BOARD.retired not in one.disk.files

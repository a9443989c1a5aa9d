"""A release of three images, `root`, `boot` and `app`, which switch together or not at all. Its power cuts are scenarios of
`tests.crash.scenarios`."""

from device_agent.core.states import Committed
from device_agent.ports import Slot
from firmware.protocol.words import Action
from tests.crash.disk import Medium
from tests.crash.world import BOARD, World

SETS = ("root", "boot", "app")


def world(faulty: set[str] | None = None, unchanged: tuple[str, ...] = ()) -> World:
    made = World(faulty=faulty, images=SETS, unchanged=unchanged)
    made.server.order(Action.INSTALL, made.new)
    return made


def assert_updated(one: World) -> None:
    assert one.runtime is not None
    assert isinstance(one.runtime.standing.state, Committed)
    assert one.running_version() == "2.0"


def test_all_images_arrive_and_are_told() -> None:
    one = world()
    one.run()
    assert_updated(one)
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
    assert_updated(one)
    assert one.holds(Slot.B, one.new)
    staged = next(report for report in one.server.told if report.state.value == "staged")
    assert staged.evidence["copied_bytes"] == one.new.refs["app"].length


def _never(file: object, forbidden: object) -> None:
    assert file != forbidden, "an image was fetched that the active slot holds"


def test_nothing_is_written_before_every_set_is_claimed() -> None:
    """`app` does not fit: no byte of the others is written, and the way back is not given up for nothing."""
    one = world()
    before = {**one.disk.files, BOARD.slot(Slot.B, "app"): bytes(100)}
    one.replace_machine(Medium({str(path): data for path, data in before.items()}))
    one.run()
    last = one.server.told[-1]
    assert (last.state.value, last.reason and last.reason.kind) == ("failed", "slot-too-small")
    for name in SETS:
        assert one.disk.files[BOARD.slot(Slot.B, name)] == before[BOARD.slot(Slot.B, name)]
    assert BOARD.retired not in one.disk.files

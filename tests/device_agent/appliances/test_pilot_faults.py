"""Each fault with each kind of box: the box stays on its image or falls back, and what is told is true."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from msgspec.structs import replace

from device_agent.appliances.course import Step
from firmware.errors import UnavailableError
from simulator.appliances.box import Times
from simulator.appliances.upgrade import Story, upgrade
from tests.appliances import KINDS, NEW, OLD, SERIAL, Stand, make_stand

TERMINALS = ("iosxe", "dual-image")
SHELLS = ("sonic", "openwrt")
TWO_IMAGES = ("sonic", "iosxe", "dual-image")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A fault, and what must come of it: the step at the end, which image runs, the kinds told, and words of what is told."""

    name: str
    kinds: tuple[str, ...] = KINDS
    faults: dict[str, Any] = field(default_factory=dict)
    image: dict[str, Any] = field(default_factory=dict)
    end: Step = Step.IDLE
    runs: dict[str, str] = field(default_factory=lambda: OLD)
    told: str = ""
    words: tuple[str, ...] = ()


BACKUP = {"sonic": "show running", "iosxe": "show running", "openwrt": "uci export", "dual-image": "show configuration"}
CASES = [
    Case(name="nothing", end=Step.COMMITTED, runs=NEW),
    Case(name="huge banner", faults={"banner_bytes": 30_000}, end=Step.COMMITTED, runs=NEW),
    Case(name="chatter", kinds=TERMINALS, faults={"chatter_bytes": 300_000}, end=Step.COMMITTED, runs=NEW),
    Case(name="noise lines", faults={"noise": b"\xff\x00\x1b[31m\x07noise\r\n"}, end=Step.COMMITTED, runs=NEW),
    Case(
        name="noise in the line",
        kinds=SHELLS,
        faults={"noise": b"\x00\xff\x01"},
        told="box-output",
        words=("answered", "expected"),
    ),
    Case(name="nobody is let in", faults={"deny": True}, told="box-login", words=("credential",)),
    Case(
        name="strange prompt",
        kinds=TERMINALS,
        faults={"strange_prompt": True},
        told="box-output",
        words=("login? maybe:", "expected was"),
    ),
    Case(name="no room", faults={"full": True}, told="box-full", words=("bytes free", "needs")),
    Case(name="install fails", faults={"install_fails": True}, told="box-refused", words=("the box refused",)),
    Case(name="cut upload", faults={"cut_at": 100_000}, end=Step.COMMITTED, runs=NEW, told="box-transfer"),
    Case(name="stalled upload", faults={"stall_at": 100_000}, end=Step.COMMITTED, runs=NEW, told="box-transfer"),
    Case(name="flipped bit", faults={"flip_at": 150_000}, told="box-hash", words=("was removed",)),
    Case(name="half unpacked", kinds=("iosxe", "dual-image"), faults={"half_install": True}, told="box-refused"),
    Case(
        name="half unpacked, seen when it is armed",
        kinds=("sonic",),
        faults={"half_install": True},
        end=Step.STAGED,
        told="box-refused",
        words=("Image verification failed",),
    ),
    Case(
        name="would boot what was only installed",
        kinds=("sonic",),
        faults={"default_forgotten": True},
        told="box-output",
        words=("would boot 202311.2", "202205.1, which runs"),
    ),
    Case(
        name="can't arm", kinds=("sonic", "dual-image"), faults={"arm_fails": True}, end=Step.STAGED, told="box-refused"
    ),
    Case(name="can't arm one image", kinds=("openwrt",), faults={"arm_fails": True}, told="box-refused"),
    Case(name="no restart", faults={"restart_refused": True}, end=Step.FELL_BACK, told="box-refused"),
    Case(
        name="restart forgotten",
        faults={"restart_forgotten": True},
        end=Step.FELL_BACK,
        told="box-stayed",
        words=("did not restart", "still runs"),
    ),
    Case(
        name="does not boot",
        kinds=("sonic", "iosxe"),
        image={"boots": False},
        end=Step.FELL_BACK,
        told="boot-failed",
        words=("came back with", "did not boot"),
    ),
    Case(
        name="one image that does not boot",
        kinds=("openwrt",),
        image={"boots": False},
        end=Step.AWAITING,
        runs=NEW,
        told="box-away",
        words=("is not back after",),
    ),
    Case(
        name="loses an interface",
        kinds=TWO_IMAGES,
        image={"loses": ("eth1",)},
        end=Step.FELL_BACK,
        words=("of 2 interfaces 1 are gone", "eth1"),
    ),
    Case(
        name="one image that loses an interface",
        kinds=("openwrt",),
        image={"loses": ("eth1",)},
        end=Step.STRANDED,
        runs=NEW,
        words=("no way back", "eth1"),
    ),
    Case(
        name="changes the configuration",
        kinds=TWO_IMAGES,
        image={"rewrites": ("ip http server",)},
        end=Step.FELL_BACK,
        words=("configuration has", "ip http server"),
    ),
    Case(
        name="says another version",
        kinds=TWO_IMAGES,
        image={"version": "9.9.9"},
        told="box-",
        words=("expected was",),
    ),
    Case(
        name="one image of another version",
        kinds=("openwrt",),
        image={"version": "9.9.9"},
        end=Step.STRANDED,
        runs={"openwrt": "9.9.9"},
        told="boot-failed",
        words=("neither the old nor the new",),
    ),
    Case(
        name="won't commit", kinds=TWO_IMAGES, faults={"commit_refused": True}, end=Step.FELL_BACK, words=("refused",)
    ),
    Case(
        name="forgets to commit",
        kinds=TWO_IMAGES,
        faults={"commit_forgotten": True},
        end=Step.FELL_BACK,
        words=("would still boot",),
    ),
    Case(
        name="second supervisor stays",
        kinds=("dual-image",),
        faults={"standby_fails": True},
        end=Step.FELL_BACK,
        told="box-not-ready",
        words=("ready 1.0", "expected was"),
    ),
]


def table() -> list[Any]:
    """Each fault with one kind of box, and with all others in the long run."""
    rows = []
    for number, case in enumerate(CASES):
        for at, kind in enumerate(case.kinds):
            marks = () if at == number % len(case.kinds) else (pytest.mark.deep,)
            rows.append(pytest.param(case, kind, id=f"{case.name}, {kind}", marks=marks))
    return rows


Build = Callable[..., Any]


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    """Makes a box and starts it."""
    started: list[Stand] = []

    async def make(kind: str, **image: Any) -> Stand:
        stand = make_stand(tmp_path, kind, standby=kind == "dual-image", **image)
        started.append(stand)
        await stand.server.start()
        return stand

    yield make
    for stand in started:
        await stand.server.stop()


def impatient(stand: Stand, *, of: str = "") -> None:
    """Short waits for what will never come: for transfers, the second supervisor, and the command that begins so."""
    dialect = stand.dialect
    slow = [replace(one, timeout_s=1.0) if one.until else one for one in dialect.standby]
    dialect = replace(dialect, upload=replace(dialect.upload, stall_s=0.7), standby=tuple(slow))
    if of:
        dialect = replace(dialect, backup=replace(dialect.backup, timeout_s=1.0))
    session = replace(dialect.session, login_s=4.0)
    stand.dialect = replace(dialect, leave_s=0.3, return_s=1.5, session=session)


@pytest.mark.parametrize(("case", "kind"), table())
async def test_a_fault_leaves_the_box_well_and_is_told(case: Case, kind: str, build: Build) -> None:
    stand = await build(kind, **case.image)
    impatient(stand)
    for name, value in case.faults.items():
        setattr(stand.box.faults, name, value)
    story = await upgrade(stand.pilot(), stand.image)
    assert (story.course.step, stand.runs) == (case.end, case.runs[kind]), story
    tell_the_truth(case, story)
    if case.end in (Step.IDLE, Step.STAGED, Step.FELL_BACK):
        flash = stand.box.flash
        assert (flash.permanent, flash.once) == (OLD[kind], ""), "a restart must boot the old image"
    if case.end is Step.COMMITTED:
        assert stand.box.flash.permanent == NEW[kind]


def tell_the_truth(case: Case, story: Story) -> None:
    told = (*story.delayed, *story.refused, story.course.cause)
    assert any(kind.startswith(case.told) for kind in told), told
    said = " ".join((*story.texts, story.course.why))
    for word in case.words:
        assert word in said
    if case.end is Step.COMMITTED:
        assert story.refused == []


def fingerprint(key: asyncssh.SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


@pytest.mark.parametrize("algorithm", ["ssh-ed25519", "ecdsa-sha2-nistp256"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_changed_host_key_is_not_spoken_to(kind: str, algorithm: str, build: Build) -> None:
    stand = await build(kind)
    await stand.server.stop()
    known = stand.server.key
    stand.server.key = asyncssh.generate_private_key(algorithm)
    await stand.server.start()
    story = await upgrade(stand.pilot(host_keys=[known.export_public_key("openssh").decode()]), stand.image)
    assert (story.refused, story.course.step) == (["box-host-key"], Step.IDLE)
    assert stand.box.faults.said == []
    same_kind = algorithm == "ssh-ed25519"
    seen = f"shows the host key {fingerprint(stand.server.key)}" if same_kind else "has host keys of other kinds only"
    assert f"127.0.0.1:{stand.server.port} {seen}; the settings give {fingerprint(known)}." in story.texts[0]


@pytest.mark.parametrize("field", ["serial", "model"])
@pytest.mark.parametrize("kind", KINDS)
async def test_another_box_is_left_alone(kind: str, field: str, build: Build) -> None:
    stand = await build(kind)
    stand.box.keep(
        replace(stand.box.flash, **{field: "OTHER-1" if field == "model" or kind != "openwrt" else "02:00:00:00:00:99"})
    )
    story = await upgrade(stand.pilot(), stand.image)
    assert (story.refused, story.course.step, stand.runs) == (["box-not-it"], Step.IDLE, OLD[kind])
    flash = stand.box.flash
    seen, expected = f"{flash.model} with serial {flash.serial}", f"M-1 with serial {SERIAL[kind]}"
    assert f"The box says that it is {seen}; the settings say {expected}." in story.texts[0]


FACTS = {
    "sonic": "sudo sonic-installer list",
    "iosxe": "show install summary",
    "openwrt": "ubus call system board",
    "dual-image": "show images",
}
SEEN = {"flood": "printed more than 4 MiB", "hang": "had no end after 1 s", "garble": "expected was "}
"""What is told of each, beside the command."""


@pytest.mark.parametrize(("fault", "told"), [("flood", "box-flood"), ("hang", "box-timeout"), ("garble", "box-output")])
@pytest.mark.parametrize("kind", KINDS)
async def test_output_without_end_or_sense_has_an_end(kind: str, fault: str, told: str, build: Build) -> None:
    stand = await build(kind)
    impatient(stand, of="backup" if fault == "hang" else "")
    begins = BACKUP if fault == "hang" else FACTS
    setattr(stand.box.faults, fault, begins[kind])
    story = await upgrade(stand.pilot(), stand.image, tries=1)
    assert {*story.delayed, *story.refused} == {told}
    assert f"`{begins[kind]}" in story.texts[0]
    assert SEEN[fault] in story.texts[0]
    flash = stand.box.flash
    assert (flash.running, flash.permanent, flash.once, flash.boots) == (OLD[kind], OLD[kind], "", 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_one_image_needs_the_settings_word(kind: str, build: Build) -> None:
    stand = await build(kind)
    story = await upgrade(stand.pilot(single_image="refuse"), stand.image)
    if kind == "openwrt":
        assert (story.refused, stand.runs) == (["box-single-image"], OLD[kind])
        assert "one-way" in story.texts[0]
    else:
        assert story.course.step is Step.COMMITTED


@pytest.mark.parametrize("kind", KINDS)
async def test_a_box_that_stays_away_is_told_from_one_that_came_back(kind: str, build: Build) -> None:
    stand = await build(kind)
    impatient(stand)
    stand.box.faults.stays_down = True
    pilot = stand.pilot()
    story = await upgrade(pilot, stand.image, tries=1)
    assert (story.delayed, story.course.step) == (["box-away"], Step.AWAITING)
    await stand.server.start()
    story = await upgrade(stand.pilot(), stand.image)
    assert (story.course.step, stand.runs) == (Step.COMMITTED, NEW[kind])


async def test_a_box_goes_back_by_its_own_timer_when_nobody_commits(build: Build) -> None:
    stand = await build("iosxe")
    stand.box.times = Times(boot_s=0.02, minute_s=0.03)
    pilot = stand.pilot()
    await pilot.prepare(stand.image)
    await pilot.arm("trial-1", 600)
    await pilot.switch()
    assert pilot.course.step is Step.TRIAL
    while pilot.course.step is Step.TRIAL:
        with contextlib.suppress(UnavailableError):
            await pilot.look()
    assert (pilot.course.step, pilot.course.cause) == (Step.FELL_BACK, "trial-deadline")
    assert f"it runs {OLD['iosxe']}" in pilot.course.why
    await pilot.close()


@pytest.mark.parametrize("kind", TWO_IMAGES)
async def test_a_box_that_somebody_else_updates_is_left_alone(kind: str, build: Build) -> None:
    stand = await build(kind)
    stand.box.install(Path(stand.image.path))
    stand.box.keep(replace(stand.box.flash, permanent=NEW[kind], uncommitted=kind == "iosxe"))
    story = await upgrade(stand.pilot(), stand.image)
    assert (story.refused, story.course.step, stand.runs) in (
        (["box-busy"], Step.IDLE, OLD[kind]),
        (["box-output"], Step.IDLE, OLD[kind]),
    )


async def test_an_upload_goes_on_where_it_broke_off(build: Build) -> None:
    stand = await build("sonic")
    stand.box.faults.cut_at = 150_000
    seen: list[int] = []
    pilot = stand.pilot()
    with pytest.raises(Exception, match="broke off"):
        await pilot.prepare(stand.image, on_bytes=seen.append)
    again: list[int] = []
    await pilot.prepare(stand.image, on_bytes=again.append)
    assert again
    assert again[0] > 128 * 1024
    assert pilot.course.step is Step.STAGED
    await pilot.close()


async def test_an_upload_ends_when_it_is_to_end(build: Build) -> None:
    stand = await build("sonic")
    pilot = stand.pilot()
    with pytest.raises(Exception, match="interrupted"):
        await pilot.prepare(stand.image, stop=lambda: True)
    assert pilot.course.step is Step.UPLOAD
    await pilot.close()

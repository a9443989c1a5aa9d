"""Real machines that boot Linux in QEMU and are updated by the agent as we ship it, one boot loader after the other.

The server and the broker are real, the guests are Debian's, the plug is pulled by SIGKILL to QEMU. The tests of a boot loader
share one device, which each of them leaves on a good slot; after a failure the next one gets a new device. A boot takes half a
minute of one core where there is no KVM.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from device_agent.ports import Slot
from tests.boot import loaders, releases
from tests.boot.depot import Depot, Device
from tests.boot.disk import MIB, Disk
from tests.boot.guest import PATH, guests
from tests.boot.loaders import Loader
from tests.boot.results import FAILED
from tests.brokers import skip_without

TOOLS = ("qemu-system-x86_64", "mmdebstrap", "mksquashfs", "depmod", "sfdisk", "mkfs.vfat", "mcopy", "mke2fs")
BOOT_S, STAGE_S = 900.0, 900.0
UNREACHED_S = 30.0
"""So long an order that waits for the broker is looked for at the device, which asks for it every few seconds."""
FAT_HEAD = 32 * 512

pytestmark = [pytest.mark.deep, pytest.mark.boots, pytest.mark.timeout(7200)]


@dataclass
class Yard:
    """The depot of one boot loader, and its device."""

    depot: Depot
    _device: Device | None = None
    _made: int = 0

    def device(self) -> Device:
        """One that runs a good release and is connected."""
        if self._device is None:
            self._made += 1
            self._device = self.depot.device(f"gateway-{self._made}")
        device = self._device
        if not device.machine.powered:
            device.machine.power_on()
        device.wait(lambda: device.view.get("presence"), "that it is connected", BOOT_S)
        return device

    def drop(self) -> None:
        """The next test gets a new one."""
        if self._device is not None:
            self._device.machine.power_cut()
            self._device = None


BOOT_LOADERS = [
    pytest.param(one, id=one.name, marks=pytest.mark.xdist_group(f"boots-{one.name}")) for one in loaders.ALL
]


@pytest.fixture(scope="module", params=BOOT_LOADERS)
def yard(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    loader: Loader = request.param
    skip_without("mosquitto")
    lack = next((tool for tool in (*TOOLS, *loader.tools) if not shutil.which(tool, path=PATH)), None)
    lack = lack or next((str(path) for path in loader.files if not path.exists()), None)
    if lack:
        pytest.skip(f"{lack} is not here; `deploy/test-tools.sh boots` installs what real boots need")
    depot = Depot(tmp_path_factory.mktemp(loader.name), guests(), loader)
    try:
        depot.prepare()
        depot.start_server()
        yield Yard(depot=depot)
    finally:
        depot.close()


@pytest.fixture
def device(yard: Yard, request: pytest.FixtureRequest) -> Iterator[Device]:
    yield yard.device()
    if request.node.stash.get(FAILED, False):
        yard.drop()


def assert_runs(device: Device, slot: Slot, version: str) -> None:
    """The server says so, the kernel was told so, and the disk holds the release byte for byte."""
    assert device.view["running_version"] == version
    assert device.running() is slot
    assert device.disk.holds(slot, device.depot.image(version))


def boots_of(device: Device, slot: Slot, after: int) -> int:
    """How often the slot was booted since the console was so long."""
    return device.machine.console.count(f"otaria-boots:{slot.value}:", after)


def assert_falls_back(device: Device, version: str, cause: str, *, boots: int | None = None) -> None:
    """Order a bad release: the device ends where it was, for this cause, after so many boots of the new slot."""
    slot, before, mark = device.running(), device.known_version(), len(device.machine.console)
    campaign = device.start(version)
    device.wait_outcome(campaign, "fell_back", 3 * BOOT_S)
    assert device.view["reason_kind"] == cause, device.view
    device.wait(lambda: device.view["presence"], "that it is connected")
    assert device.running() is slot
    assert device.disk.holds(slot, device.depot.image(before))
    if boots is not None:
        assert boots_of(device, slot.other, mark) == boots


def test_a_good_update_commits(device: Device) -> None:
    """A good update commits"""
    slot, mark = device.running(), len(device.machine.console)
    campaign = device.start(releases.GOOD)
    device.wait_outcome(campaign, "verified", STAGE_S + BOOT_S)
    assert_runs(device, slot.other, releases.GOOD)
    assert " ERROR " not in device.machine.console[mark:]
    code, said = device.machine.shell("otaria-agent boot check")
    assert code == 0, said


def test_a_slot_that_panics(device: Device) -> None:
    """The new slot's kernel panics"""
    assert_falls_back(device, releases.PANICS, "attempts-exhausted", boots=2)


def test_a_slot_that_fails_its_checks(device: Device) -> None:
    """The new slot fails its health checks"""
    assert_falls_back(device, releases.UNHEALTHY, "health-failed", boots=1)


def test_a_slot_that_cannot_be_read(device: Device) -> None:
    """Slot B is corrupted after it was verified"""
    slot = device.running()
    mark = len(device.machine.console)
    before = device.known_version()
    campaign = device.start(releases.CORRUPT)
    device.machine.wait_for(f"otaria-boots:{slot.other.value}:", STAGE_S + BOOT_S, after=mark, cut=True)
    device.disk.spoil(f"root-{slot.other.value.lower()}", 0, MIB)
    device.machine.power_on()
    device.wait_outcome(campaign, "fell_back", 2 * BOOT_S)
    assert device.view["reason_kind"] == device.depot.loader.unreadable
    assert device.running() is slot
    assert device.disk.holds(slot, device.depot.image(before))


def test_a_slot_without_an_agent(device: Device) -> None:
    """The new slot never commits: its agent never starts, and the hardware watchdog restarts it"""
    assert_falls_back(device, releases.SILENT, "attempts-exhausted", boots=2)


def test_a_slot_that_hangs(device: Device) -> None:
    """The new slot hangs before its agent starts"""
    assert_falls_back(device, releases.HANGS, "attempts-exhausted", boots=2)


def test_a_slot_that_freezes(device: Device) -> None:
    """The new slot's machine freezes while the agent holds the watchdog"""
    assert_falls_back(device, releases.FREEZES, "attempts-exhausted", boots=2)


def writes_to(part: str, share: float = 0.0) -> Callable[[int, int], bool]:
    """A write to this slot, behind this share of a slot image."""
    at, size = Disk.extents()[part]
    start = at + int(share * 48 * MIB)
    return lambda offset, _length: start <= offset < at + size


def writes_environment(loader: Loader) -> Callable[[int, int], bool]:
    """A write of the boot environment; what mounting writes to the head of a FAT file system is none."""
    at, size = Disk.extents()[loader.state_part]
    start = at + (FAT_HEAD if loader.state_part == "esp" else 0)
    return lambda offset, _length: start <= offset < at + size


def test_the_power_goes_at_every_step(device: Device) -> None:
    """QEMU is killed at each step of one update, which then commits"""
    machine, disk, slot = device.machine, device.disk, device.running()
    before, other, loader = device.known_version(), slot.other, device.depot.loader
    part = f"root-{other.value.lower()}"

    def boots_good(step: str) -> None:
        """Power on: the old slot comes up with its agent, and was not written to."""
        mark = len(machine.console)
        machine.power_on()
        machine.wait_for(f"otaria-boots:{slot.value}:", BOOT_S, after=mark)
        assert disk.holds(slot, device.depot.image(before)), step

    machine.shell("sed -i 's/attempts = 2/attempts = 3/' /var/lib/otaria-agent/agent.toml")
    mark = len(machine.console)
    campaign = device.start(releases.CUT)
    machine.wait_for("state downloading", STAGE_S, after=mark, cut=True)
    boots_good("downloading")
    machine.on_write = writes_environment(loader)
    machine.wait_for_cut(BOOT_S)
    boots_good("at a write of the boot environment")
    for share in (0.0, 0.5, 0.9):
        machine.on_write = writes_to(part, share)
        machine.wait_for_cut(STAGE_S)
        boots_good(f"writing, {share:.0%}")
    mark = len(machine.console)
    machine.wait_for("otaria-step:before-activation", STAGE_S, after=mark, cut=True)
    boots_good("staged, and asking")
    mark = len(machine.console)
    machine.wait_for("otaria-step:before-activation", STAGE_S, after=mark)
    machine.on_write = writes_environment(loader)
    machine.wait_for_cut(STAGE_S)
    mark = len(machine.console)
    machine.power_on()
    # The plug comes out a little after the write began: the trial may be armed by then, or not. If not, the device asks again.
    booted = machine.wait_for("otaria-boots:([AB]):", BOOT_S, after=mark)
    assert disk.holds(slot, device.depot.image(before)), "as the trial was armed"
    if booted[1] == slot.value:
        machine.wait_for(f"otaria-boots:{other.value}:", STAGE_S + BOOT_S, after=mark)
    machine.power_cut()
    mark = len(machine.console)
    machine.power_on()
    machine.wait_for(f"otaria-boots:{other.value}:", BOOT_S, after=mark)
    machine.wait_for("otaria-step:before-commit", BOOT_S, after=mark, cut=True)
    mark = len(machine.console)
    machine.power_on()
    machine.wait_for("otaria-step:after-commit", 2 * BOOT_S, after=mark, cut=True)
    mark = len(machine.console)
    machine.power_on()
    machine.wait_for(f"otaria-boots:{other.value}:", BOOT_S, after=mark)
    device.wait_outcome(campaign, "verified", BOOT_S)
    assert_runs(device, other, releases.CUT)
    machine.shell("sed -i 's/attempts = 3/attempts = 2/' /var/lib/otaria-agent/agent.toml")


def leave_the_factory(device: Device, version: str) -> None:
    """There is no way back to the factory's image, which the catalogue does not know: have it run another release."""
    if device.known_version() == releases.FACTORY:
        device.wait_outcome(device.start(version), "verified", STAGE_S + BOOT_S)


def test_a_crash_loop_after_the_commit(device: Device) -> None:
    """A committed release crashes at every boot, and the previous one comes back"""
    leave_the_factory(device, releases.CUT)
    slot, before, mark = device.running(), device.known_version(), len(device.machine.console)
    device.start(releases.LOOPS)
    device.machine.wait_for("otaria-step:after-commit", STAGE_S + BOOT_S, after=mark)
    code, _ = device.machine.shell("(sleep 2; systemctl reboot --force --force) >/dev/null 2>&1 & true")
    assert code == 0
    device.machine.wait_for("otaria-step:crashes", BOOT_S, after=mark)
    device.wait(lambda: device.view["running_version"] == before, "the previous release to run", 4 * BOOT_S)
    assert device.view["reason_kind"] == "boot-loop"
    assert_runs(device, slot, before)


def test_an_update_by_delta_and_a_rollback_at_the_device(device: Device) -> None:
    """An update by delta, then a rollback at the device while the broker is down"""
    leave_the_factory(device, releases.SOURCE)
    slot, before, mark = device.running(), device.known_version(), len(device.machine.console)
    campaign = device.start(releases.NEXT, deltas=1)
    device.wait_outcome(campaign, "verified", STAGE_S + BOOT_S)
    assert_runs(device, slot.other, releases.NEXT)
    fetched = device.received("after-install", mark) - device.received("before-download", mark)
    assert fetched < device.depot.image(releases.NEXT).stat().st_size / 4, "the delta was not used"
    mark = len(device.machine.console)
    with device.depot.broker_down():
        code, said = device.machine.shell("otaria-agent rollback")
        assert code == 0, said
        device.machine.wait_for(f"otaria-boots:{slot.value}:", BOOT_S, after=mark)
        device.machine.wait_for("state (fell_back|committed)", BOOT_S, after=mark)
        assert device.running() is slot
    device.wait(lambda: device.view["running_version"] == before, "the server to know", BOOT_S)
    assert_runs(device, slot, before)


def test_an_ordered_rollback_waits_for_the_broker(device: Device) -> None:
    """A campaign is rolled back while the broker is down, and the device goes back once the broker is there again"""
    leave_the_factory(device, releases.PREVIOUS)
    slot, before = device.running(), device.known_version()
    campaign = device.start(releases.LAST)
    device.wait_outcome(campaign, "verified", STAGE_S + BOOT_S)
    assert_runs(device, slot.other, releases.LAST)
    mark = len(device.machine.console)
    with device.depot.broker_down():
        device.depot.rest.post(f"/campaigns/{campaign}/rollback", {"reason": "a test wants it"})
        device.wait(lambda: device.depot.campaign(campaign)["state"] == "rolling_back", "that it is being rolled back")
        time.sleep(UNREACHED_S)
        assert device.running() is slot.other
        assert boots_of(device, slot, mark) == 0
        assert device.outcome(campaign) == "ordered", "the way back is ordered, and nobody has heard of it"
    device.wait_outcome(campaign, "rolled_back", STAGE_S + BOOT_S)
    assert boots_of(device, slot, mark) == 1
    assert_runs(device, slot, before)
    assert device.depot.campaign(campaign)["state"] == "rolled_back"

"""Where the guests come from and report to: the real server with a broker of its own on this machine, and its devices.

A guest reaches this machine's loopback at 10.0.2.2, so that is the name in the certificates.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agent.ports import Slot
from server.identity.authority import Authorities
from simulator.hostile import HostileBroker
from simulator.lab import PRODUCT, Firmware, Lab, free_port
from tests.boot.disk import Disk
from tests.boot.guest import Guests
from tests.boot.loaders import Loader
from tests.boot.machine import Machine
from tests.boot.releases import FACTORY, RELEASES, SELF_TEST

HOST = "10.0.2.2"
PATIENCE_S = 600.0
SETTINGS = """
log_level = "info"

[slots.A]
root = "PARTLABEL=root-a"

[slots.B]
root = "PARTLABEL=root-b"

[watchdog]
device = "/dev/watchdog"
timeout_s = 60
always = true

[hooks]
directory = "/etc/otaria/hooks"

[local]
rollback = true

[intervals]
ask_min_s = 1.0
ask_max_s = 5.0
retry_min_s = 1.0
retry_max_s = 5.0
resend_min_s = 2.0
resend_max_s = 10.0
reconnect_min_s = 0.5
reconnect_max_s = 3.0
progress_s = 1.0
doorbell_spread_s = 0.5

[boot]
{boot}attempts = 2
boots = 3
min_uptime_s = 20.0
"""
STRATEGY = """
strategy:
  name: boots
  cohorts:
    - {name: all}
  patience: 1h
  trial: 900s
  horizon: 1h
  healthy: 1s
  retry: 2s
  on_failure: pause
  deltas: {wait: %(wait)s, at_most: %(deltas)d}
"""


class Depot(Lab):
    """A laboratory whose server and broker guests reach, with all releases of one architecture published."""

    def __init__(self, directory: Path, guests: Guests, loader: Loader) -> None:
        super().__init__(directory, broker="mosquitto", hostile=True)
        self.guests, self.loader = guests, loader
        self.devices: list[Device] = []
        self._images: dict[str, Path] = {}
        self._published: set[str] = set()

    def write_settings(self) -> None:
        """As the laboratory's, with the address that guests know."""
        agents, services, devices = free_port(), free_port(), free_port()
        authorities = Authorities.open_or_create(self.state / "identity", hosts=[HOST, "127.0.0.1"])
        self.broker = HostileBroker(
            self.directory / "broker", authorities, kind="mosquitto", agents=agents, services=services
        )
        self.broker.start()
        (self.directory / "otaria.toml").write_text(
            f'[server]\nstate = "state"\n\n[http]\npeople = "127.0.0.1:{free_port()}"\ndevices = "127.0.0.1:{devices}"\n'
            f'devices_url = "https://{HOST}:{devices}"\nnames = ["{HOST}"]\n\n'
            f'[broker]\nkind = "external"\nagents_host = "{HOST}"\nservices_host = "127.0.0.1"\n'
            f"agents_port = {agents}\nservices_port = {services}\n\n"
            '[catalogue]\nrepository = "repository/metadata"\nonline_keys = "repository/keys/online"\n'
        )

    def image(self, version: str) -> Path:
        """A release's slot image, the same as long as this depot exists."""
        if version not in self._images:
            release = RELEASES[version]
            self._images[version] = self.guests.slot(self.loader.arch, version, release.counter, release.change)
        return self._images[version]

    def offer(self, version: str) -> None:
        """Publish a release, once."""
        if version not in self._published:
            counter = RELEASES[version].counter
            self.publish(Firmware(version=version, counter=counter, path=self.image(version), health=SELF_TEST))
            self._published.add(version)

    def device(self, name: str) -> "Device":
        """A new device with the factory release, off."""
        folder = self.directory / name
        folder.mkdir()
        (folder / "claim").write_text(self.claim(uses=1, labels={"name": name}))
        disk = Disk.make(
            folder / "disk.img",
            esp=self.loader.esp(self.guests, folder),
            slot_a=self.image(FACTORY),
            data={"agent.toml": SETTINGS.format(boot=self.loader.boot).encode()},
        )
        if self.loader.state is not None:
            disk.put("state", self.loader.state(folder))
        board = self.loader.board(self.guests, folder)
        machine = Machine(board=board, disk=disk, folder=folder, claim=folder / "claim")
        device = Device(depot=self, name=name, machine=machine, disk=disk)
        self.devices.append(device)
        return device

    @contextmanager
    def broker_down(self) -> Iterator[None]:
        """The broker is dead inside."""
        assert self.broker is not None
        self.broker.kill()
        try:
            yield
        finally:
            self.broker.start()

    def close(self) -> None:
        """End everything that was started."""
        for device in self.devices:
            device.machine.power_cut()
        super().close()


@dataclass
class Device:
    """A device under test: its machine, and what the server knows of it."""

    depot: Depot
    name: str
    machine: Machine
    disk: Disk
    campaigns: int = 0

    @property
    def view(self) -> dict[str, Any]:
        """The target as the server sees it; empty before it enrolled."""
        for target in self.depot.rest.get("/fleet")["targets"]:
            if target["labels"].get("name") == self.name:
                view: dict[str, Any] = self.depot.rest.get(f"/fleet/{target['id']}")
                return dict(view.get("target", view))
        return {}

    def known_version(self) -> str:
        """The release that runs, by the server's record."""
        return str(self.view["running_version"] or FACTORY)

    def start(self, version: str, *, deltas: int = 0) -> str:
        """Order this release by a campaign for this device alone."""
        self.depot.offer(version)
        self.campaigns += 1
        name = f"{self.name}-{self.campaigns}"
        text = f"name: {name}\nproduct: {PRODUCT}\nversion: {version}\nselection: {{labels: {{name: {self.name}}}}}\n"
        return self.depot.apply_campaign(text + STRATEGY % {"wait": "5m" if deltas else "0s", "deltas": deltas})

    def outcome(self, campaign: str) -> str:
        """What became of it in a campaign: its assignment's state."""
        counts = [cohort["counts"] for cohort in self.depot.campaign(campaign)["cohorts"]]
        return next((state for one in counts for state, number in one.items() if number), "")

    def wait_outcome(self, campaign: str, state: str, timeout_s: float = PATIENCE_S) -> None:
        """Until the server counts it so in the campaign."""
        self.wait(lambda: self.outcome(campaign) == state, f"{campaign} to end {state}", timeout_s)

    def wait(self, condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
        """Wait for something about this device."""
        return self.depot.wait(condition, timeout_s, f"{self.name}: {what}", on_failure=self.explain)

    def status(self) -> dict[str, Any]:
        """What the running agent says of itself."""
        code, text = self.machine.shell("otaria-agent status --json")
        assert code == 0, text
        found: dict[str, Any] = json.loads(text.splitlines()[-1])
        return found

    def running(self) -> Slot:
        """The slot that runs, as the kernel was told."""
        _, text = self.machine.shell("cat /proc/cmdline")
        found = re.search(r"otaria\.slot=([AB])", text)
        assert found, text
        return Slot(found[1])

    def received(self, hook: str, after: int) -> int:
        """Bytes that had come over its network in this boot when the hook ran first behind `after` on the console."""
        found = self.machine.wait_for(rf"otaria-step:{hook}:[^:]*:received=(\d+):", 1.0, after=after)
        return int(found[1])

    def words(self) -> str:
        """Everything that the server's audit trail says about it."""
        records = self.depot.rest.get(f"/audit?target={self.view['id']}&limit=500")["audit"]
        return "\n".join(f"{record['kind']}: {record['text']}" for record in records)

    def explain(self) -> str:
        """For a failing test: what is known."""
        view = self.view
        return f"server: {view}\n{self.words() if view else ''}\nconsole: {self.machine.console[-6000:]}"

"""A site agent whose emulated boxes are enrolled in a laboratory, and what a test asks of them."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simulator.appliances.box import Box, Times, make_box
from simulator.appliances.hall import powered
from simulator.appliances.image import ImageFacts, make_image
from simulator.appliances.server import BoxServer
from simulator.lab import HARDWARE, Firmware, Lab
from simulator.site_agent import SiteAgent
from tests.e2e.rig import INTERVALS

PATIENCE_S = 120.0
KIND = "dual-image"
OLD, NEW, WORSE = "1.0", "2.0", "3.0"
BOOT_S = 0.3


def ask_agent(*arguments: str | Path) -> str:
    """What `otaria-agent` prints."""
    command = [sys.executable, "-m", "device_agent.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Site(SiteAgent):
    """Its boxes are `box-1`, `box-2` and so on. `spares`: boxes that are up beside them and that it knows nothing of."""

    def __init__(
        self, lab: Lab, servers: Sequence[BoxServer], spares: Sequence[BoxServer], labels: Mapping[int, dict[str, str]]
    ) -> None:
        self.lab, self.servers, self.spares = lab, servers, spares
        boxes = {f"box-{number}": server for number, server in enumerate(servers, 1)}
        super().__init__(lab.directory / "site", boxes, settings=INTERVALS)
        for number, name in enumerate(boxes, 1):
            lab.enrol(name, self.home(name), HARDWARE, labels=labels.get(number))

    def id_of(self, number: int) -> str:
        """Of the target that the server knows."""
        return str(json.loads((self.home(f"box-{number}") / "identity.json").read_text())["target"])

    def target(self, number: int) -> dict[str, Any]:
        """As the API shows it."""
        view: dict[str, Any] = self.lab.rest.get(f"/fleet/{self.id_of(number)}")
        return view

    def why(self, number: int) -> str:
        """Why it isn't moving, by the planner."""
        return str(self.lab.rest.get(f"/fleet/{self.id_of(number)}/explain")["text"])

    def counts(self, campaign: str) -> dict[str, int]:
        """Targets by state."""
        totals: dict[str, int] = {}
        for cohort in self.lab.campaign(campaign)["cohorts"]:
            for state, number in cohort["counts"].items():
                totals[state] = totals.get(state, 0) + number
        return {state: number for state, number in totals.items() if number}

    def wait(self, condition: Callable[[], Any], what: str, campaign: str) -> None:
        """Until it holds, or fail with what everybody says."""
        self.lab.wait(condition, PATIENCE_S, what, on_failure=lambda: self._told(campaign))

    def _told(self, campaign: str) -> str:
        numbers = range(1, len(self.servers) + 1)
        return f"{self.counts(campaign)} {[self.target(number) for number in numbers]} {self.log()}"


def publish(lab: Lab, version: str, counter: int, loses: tuple[str, ...] = ()) -> None:
    """A release whose image the boxes take."""
    image = make_image(lab.directory / f"{version}.img", ImageFacts(kind=KIND, version=version, loses=loses))
    lab.publish(Firmware(version=version, counter=counter, path=image))


@contextmanager
def site_of(
    lab: Lab,
    count: int,
    *,
    spares: Sequence[str] = (),
    labels: Mapping[int, dict[str, str]] | None = None,
    spoil: Callable[[Sequence[BoxServer]], None] = lambda servers: None,
) -> Iterator[Site]:
    """A site agent that runs. `spares`: the serials of more boxes; `labels`: what boxes are enrolled with; `spoil` is called with
    the boxes when they are up and nobody has spoken to them."""
    old = make_image(lab.directory / "old.img", ImageFacts(kind=KIND, version=OLD), length=4096)
    serials = [f"V-{number}" for number in range(1, count + 1)]

    def box(at: int, serial: str) -> Box:
        home = lab.directory / f"box-{at}"
        return make_box(home, KIND, serial=serial, model="M-1", image=old, standby=at == 1, times=Times(boot_s=BOOT_S))

    with powered([box(at, serial) for at, serial in enumerate([*serials, *spares], 1)]) as servers:
        spoil(servers)
        site = Site(lab, servers[:count], servers[count:], labels or {})
        site.start()
        try:
            yield site
        finally:
            site.kill()

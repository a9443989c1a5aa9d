"""A whole Otaria with a simulated fleet, and browsers that look at it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page

from firmware.images.slot_image import build_slot_image
from server.identity.api_tokens import ApiTokens
from server.ports import Role
from server.storage.database import SqlDatabase
from simulator.lab import HARDWARE, PRODUCT, Firmware, Lab

MAIN, ODD = 8, 2
"""Devices of the fleet that is updated, and of the one whose label is hostile."""
HOSTILE = "<script>window.ran=1</script><img src=x onerror=window.ran=1>"
PROGRAM = Path(__file__).parents[2] / "simulator" / "programs" / "gateway-2.0.0.py"
LICENSE = Path(__file__).parents[2].joinpath("LICENSE").read_bytes()
WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective + " " + event.blockedURI));
"""
CAMPAIGN = """
name: {name}
product: gateway
version: "{version}"
selection: {{labels: {{group: {group}}}}}
strategy:
  name: pages
  cohorts:
    - {{name: canary, count: 2, gate: {{kind: all, min_verified: 1}}}}
    - {{name: rest}}
  patience: 60s
  trial: 60s
  horizon: 60s
  healthy: {healthy}
  retry: 1s
"""


class SystemTime:
    """The server's time."""

    def now(self) -> float:
        return time.time()


@dataclass
class Visitor:
    """A browser of one person. `complaints` is what the browser itself had to say against the pages."""

    context: BrowserContext
    url: str
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str = "/") -> Page:
        """Open a page in a new tab."""
        page = self.context.new_page()
        page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(self.url + path)
        return page

    def sign_in(self, token: str, path: str = "/") -> Page:
        """Come to a page by the door, as a person does."""
        page = self.open(path)
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(self.url + path)
        return page


@dataclass
class Site:
    """The laboratory with its fleet, and who may sign in."""

    lab: Lab
    browser: Browser
    tokens: dict[Role, str]

    @property
    def url(self) -> str:
        return str(self.lab.run_info["people_url"])

    @contextmanager
    def visitor(self, **options: Any) -> Iterator[Visitor]:
        """A browser without a past; `options` are Playwright's, such as `viewport` and `color_scheme`."""
        context = self.browser.new_context(**options)
        context.set_default_timeout(15_000)
        context.add_init_script(WATCH)
        try:
            yield Visitor(context=context, url=self.url)
        finally:
            context.close()

    def campaign(self, name: str, *, version: str, group: str = "main", healthy: str = "1s") -> str:
        """Make a campaign, a draft yet; returns its page's path."""
        text = CAMPAIGN.format(name=name, version=version, group=group, healthy=healthy)
        return f"/campaigns/{self.lab.rest.post('/campaigns', text)['id']}"

    def command(self, path: str, verb: str) -> None:
        """Tell a campaign something over REST."""
        self.lab.rest.post(f"{path}/{verb}", {"reason": "said over REST"})

    def state(self, path: str) -> str:
        """The state of the campaign with this page."""
        return str(self.lab.rest.get(path)["state"])


def publish(lab: Lab) -> Path:
    """Three releases; returns the image of the first."""
    for counter, version in enumerate(("1.0.0", "2.0.0", "3.0.0"), start=1):
        path = lab.directory / f"{version}.img"
        program = PROGRAM.read_bytes()
        build_slot_image(
            path, product=PRODUCT, version=version, counter=counter, program=program, payload=[("LICENSE", LICENSE)]
        )
        lab.publish(Firmware(version=version, counter=counter, path=path))
    return lab.directory / "1.0.0.img"


@contextmanager
def fleet(lab: Lab, factory: Path) -> Iterator[None]:
    """Simulated devices, once all of them have reported."""
    running = [
        _simulated(lab, factory, "main", MAIN, {"group": "main"}),
        _simulated(lab, factory, "odd", ODD, {"group": "odd", "site": HOSTILE}),
    ]
    try:
        lab.wait(lambda: _all_report(lab), 60, "the fleet to report", on_failure=lab.server_log)
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(timeout=20)


def _simulated(lab: Lab, factory: Path, name: str, count: int, labels: dict[str, str]) -> "subprocess.Popen[bytes]":
    claim = lab.directory / f"claim-{name}.txt"
    claim.write_text(lab.claim(uses=count, labels=labels))
    arguments = ["sim", "fleet", "--claim-file", str(claim), "--devices", str(count), "--hardware", HARDWARE]
    arguments += ["--image", str(factory), "--dir", str(lab.directory / name), "--json"]
    with (lab.directory / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", "from server.cli import main; main()", *arguments], stdout=log, stderr=log
        )


def _all_report(lab: Lab) -> bool:
    targets = lab.rest.fleet()
    return len(targets) == MAIN + ODD and all(target["running_version"] for target in targets)


async def token_of(lab: Lab, role: Role) -> str:
    """A token of this role, made beside the running server."""
    database = SqlDatabase.open(f"sqlite:///{lab.state / 'otaria.db'}")
    try:
        return await ApiTokens(database, clock=SystemTime()).create(f"a {role}", role)
    finally:
        await database.close()

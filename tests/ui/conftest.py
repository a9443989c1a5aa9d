"""One laboratory and one Chromium for a module of tests, which stays on one worker.

A module and no longer: while the browser is driven, its thread has an event loop that keeps out those of async tests.
"""

import asyncio
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import sync_playwright

from server.ports import Role
from simulator.lab import Lab, running
from tests.ui.site import Site, fleet, publish, token_of

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of the browser on one worker."""
    for item in items:
        if "bare" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("browser"))


@pytest.fixture(scope="module")
def site(bare: Site) -> Iterator[Site]:
    """The site with releases and a fleet."""
    with fleet(bare.lab, publish(bare.lab)):
        yield bare


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running Otaria in which nothing has happened yet, and a browser."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with running(Lab(tmp_path_factory.mktemp("site"), broker="auto")) as lab:
        admin = (lab.state / "admin.token").read_text().strip()
        tokens = {role: asyncio.run(token_of(lab, role)) for role in (Role.VIEWER, Role.OPERATOR)}
        with (
            sync_playwright() as playwright,
            playwright.chromium.launch(executable_path=chromium, args=FLAGS) as browser,
        ):
            yield Site(lab=lab, browser=browser, tokens={Role.ADMIN: admin, **tokens})

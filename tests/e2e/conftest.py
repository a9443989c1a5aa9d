"""One laboratory per broker and worker; the tests of one broker stay on one worker. Those of the embedded one are deep: it is for
trying things out, and what a broker owes us is in the contract tests, on both."""

from collections.abc import Iterator

import pytest

from simulator.lab import Lab
from tests.brokers import skip_without
from tests.e2e.rig import Rig, publish_all

BROKERS = ("mosquitto", "embedded")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of one broker on one worker, so that each laboratory is built once."""
    for item in items:
        broker = getattr(item, "callspec", None) and item.callspec.params.get("laboratory")
        if broker:
            item.add_marker(pytest.mark.xdist_group(f"faults-{broker}"))
        if broker == "embedded":
            item.add_marker(pytest.mark.deep)


@pytest.fixture
def rig(laboratory: Rig) -> Iterator[Rig]:
    """The laboratory for one test; its boards end with the test."""
    yield laboratory
    laboratory.clear()


@pytest.fixture(scope="session", params=BROKERS)
def laboratory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A running server behind an attacker's broker."""
    skip_without(request.param)
    lab = Lab(tmp_path_factory.mktemp(request.param), broker=request.param, hostile=True)
    try:
        lab.prepare()
        lab.start_server()
        publish_all(lab)
        assert lab.broker is not None
        eve = lab.broker.eve()
        yield Rig(lab=lab, eve=eve)
        eve.close()
    finally:
        lab.close()

import re
from collections.abc import Iterator

import pytest

from tests.device_agent.packages.bed import Bed, Beds, beds_in


@pytest.fixture(scope="session")
def beds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beds]:
    with beds_in(tmp_path_factory.mktemp("hosts")) as made:
        yield made


@pytest.fixture
def bed(beds: Beds, request: pytest.FixtureRequest) -> Bed:
    """A fresh host with everything at 1.0."""
    return beds.make(re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:80])

"""Artifacts in a bucket, with real processes: releases are published into it, deltas made out of it, and devices install from it,
over HTTPS and over the broker, though the store breaks off on the way."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.transport.broker import find_mosquitto
from simulator.lab import Lab
from tests.e2e.rig import FACTORY, FULL, SIBLING, SLOW_TRIAL, Rig, publish_all
from tests.s3_store import Line, Store, spoilt_line

pytestmark = pytest.mark.xdist_group("bucket")


@pytest.fixture(scope="module")
def line(s3_store: Store) -> Iterator[Line]:
    with spoilt_line(s3_store) as line:
        yield line


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, s3_store: Store, line: Line) -> Iterator[Rig]:
    lab = Lab(tmp_path_factory.mktemp("bucket"), broker="mosquitto" if find_mosquitto() else "embedded", hostile=True)
    lab.more_settings = (
        f'[artifacts]\nstore = "s3"\nendpoint = "http://127.0.0.1:{line.port}"\nbucket = "{s3_store.make_bucket()}"\n'
        f'region = "eu-central-1"\nprefix = "firmware/"\ncredentials_file = "{s3_store.keys}"\n'
    )
    try:
        lab.prepare()
        lab.start_server()
        publish_all(lab, (FACTORY, FULL, SLOW_TRIAL, SIBLING))
        assert lab.broker is not None
        eve = lab.broker.eve()
        yield Rig(lab=lab, eve=eve)
        eve.close()
    finally:
        lab.close()


@pytest.fixture
def rig(house: Rig) -> Iterator[Rig]:
    yield house
    house.clear()


def files(lab: Lab) -> list[Path]:
    return [path for path in (lab.state / "artifacts" / "sha256").glob("??/*") if path.is_file()]


def test_a_device_installs_though_the_store_breaks_off(rig: Rig, line: Line) -> None:
    """Each window past the first MiB fails until the server gives the download up, once; the device goes on where it was."""
    image = rig.lab.rest.get(f"/releases/gateway/{FULL}")["images"][0]["file"]
    key, failures = f"/firmware/{image['sha256']}".encode(), iter(range(3))

    def spoil(_: int, head: bytes) -> bytes | None:
        at = re.search(rb"(?i)\r\nrange: bytes=(\d+)-", head)
        is_late = head.startswith(b"GET") and key in head and at is not None and int(at[1]) >= 1 << 20
        return b"" if is_late and next(failures, None) is not None else None

    bench = rig.board("bucket-https")
    line.spoil = spoil
    asked = len(line.heads)
    campaign = bench.start(FULL)
    bench.assert_verified_once(campaign)
    line.spoil = lambda _, head: None
    assert bench.view["running_version"] == FULL
    assert next(failures, None) is None, "the store broke off"
    windows = [head for head in line.heads[asked:] if head.startswith(b"GET") and key in head]
    assert len(windows) > image["length"] / (1 << 20)
    assert files(rig.lab) == []


def test_a_device_installs_in_blocks_over_the_broker(rig: Rig) -> None:
    bench = rig.board("bucket-blocks", settings='sources = ["mqtt"]\n')
    bench.link.close()
    campaign = bench.start(FULL)
    bench.assert_verified_once(campaign)
    assert files(rig.lab) == []


def test_deltas_are_made_of_copies(rig: Rig) -> None:
    deltas = rig.lab.wait_for_deltas(SIBLING)
    assert deltas
    assert files(rig.lab) == []
    copies = list((rig.lab.state / "artifacts" / "spool").iterdir())
    assert len(copies) >= 2

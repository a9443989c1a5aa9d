"""A server's machine is lost while its fleet runs, and a backup takes its place that is older than the last campaign: devices and
server agree again, and no order goes back behind one that was given."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware.protocol import topics
from firmware.protocol.codec import convert
from firmware.protocol.envelope import claimed
from firmware.protocol.order import Counter, Order
from firmware.protocol.topics import Leaf
from simulator.lab import Lab
from tests.brokers import skip_without
from tests.e2e.rig import FACTORY, FULL, SIBLING, Bench, Rig, publish_all

EPOCH_FIRST = "otaria keys raise-epoch"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A laboratory of its own, since its server is lost."""
    skip_without("mosquitto")
    lab = Lab(tmp_path / "lab", broker="mosquitto", hostile=True)
    rig = None
    try:
        lab.prepare()
        lab.start_server()
        publish_all(lab, (FACTORY, FULL, SIBLING))
        assert lab.broker is not None
        rig = Rig(lab=lab, eve=lab.broker.eve())
        yield rig
    finally:
        if rig is not None:
            rig.clear()
            rig.eve.close()
        lab.close()


def counters(rig: Rig, bench: Bench) -> list[Counter]:
    """Of every order that went over the broker to a board, in turn; one that is sent again counts once."""
    topic = topics.of_target(bench.target, bench.target, Leaf.ORDER)
    orders = [seen.payload for seen in rig.eve.seen if seen.topic == topic and seen.payload]
    found = [convert(claimed(payload)[1], Order).counter for payload in orders]
    return [one for one, before in zip(found, [None, *found], strict=False) if one != before]


@pytest.mark.deep
@pytest.mark.timeout(300)
@pytest.mark.parametrize("catalogue", ["kept", "lost"])
def test_a_backup_restored_over_a_running_fleet(rig: Rig, catalogue: str) -> None:
    lab, directory = rig.lab, rig.lab.directory
    config = str(directory / "otaria.toml")
    known, forgotten = rig.board("known"), rig.board("forgotten")
    known.assert_verified_once(known.start(FULL))
    backup = directory / "backup.tar"
    lab.otaria("backup", str(backup), "--config", config, "--artifacts")
    lost = forgotten.start(FULL)
    forgotten.assert_verified_once(lost)
    for bench in (known, forgotten):
        bench.start(SIBLING, suffix="-later", patience="300s")
        bench.wait(
            lambda bench=bench: bench.view["state"] in ("activating", "trial", "committed"), "the later campaign"
        )

    lab.kill_server()
    lab.state.rename(directory / "lost")
    if catalogue == "lost":
        (lab.repository / "metadata").rename(directory / "lost-metadata")
    lab.otaria("restore", str(backup), "--config", config)
    with pytest.raises(Exception, match=EPOCH_FIRST):
        lab.start_server()
    lab.kill_server()
    lab.otaria("keys", "raise-epoch", "--repository", str(lab.repository), "--yes")
    lab.start_server()

    kinds = {line["kind"] for line in lab.rest.get("/audit?limit=500")["audit"]}
    assert "server-restored" in kinds
    assert {campaign["id"] for campaign in lab.rest.get("/campaigns")["campaigns"]} == {"known-2-0-0"}
    for bench in (known, forgotten):
        bench.wait(lambda bench=bench: bench.view["running_version"] == SIBLING, "its news of what it runs", 90.0)
        bench.wait(lambda bench=bench: bench.status["waiting_reports"] == 0, "its reports taken", 60.0)
    for bench in (known, forgotten):
        bench.assert_verified_once(bench.start(FULL, suffix="-again"))
        assert bench.view["running_version"] == FULL
        seen = counters(rig, bench)
        assert seen == sorted(seen, key=lambda one: (one.epoch, one.n)), f"an order went back: {seen}\n{bench.words()}"
        assert len({(one.epoch, one.n) for one in seen}) == len(seen)
        assert {one.epoch for one in seen} == {1, 2}
        assert "equivocation" not in bench.words()

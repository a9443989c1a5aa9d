"""A release that must not be reached directly, with real agents: two installs of one campaign, the second by delta.

What is tested has nothing to do with the broker, so one will do. The campaign waits for a delta, and that for the one which is
being made because of a publication.
"""

import pytest

from tests.e2e.rig import FACTORY, FAR, PAYLOAD_BYTES, SIBLING, Rig

ARRIVES_S = 180.0


@pytest.mark.timeout(400)
@pytest.mark.parametrize("laboratory", ["embedded"], indirect=True)
def test_an_old_board_passes_through_and_takes_the_delta_where_there_is_one(rig: Rig) -> None:
    bench = rig.board("steps")
    before = bench.link.received
    campaign = bench.start(FAR, wait="3m", deltas=1)
    bench.wait(lambda: bench.view["running_version"] == FAR, "the release", ARRIVES_S)
    bench.wait(lambda: bench.counts(campaign) == {"verified": 1}, "verified and counted once", ARRIVES_S)
    assert bench.slots() == (FAR, SIBLING)
    assert bench.attempted(campaign) == 2
    words = bench.words()
    assert f"Installing {SIBLING} first, because {FAR} must not be reached from {FACTORY} directly." in words
    assert words.count("permit-granted") == 2
    assert "must-pass-through" not in words
    legs = {leg["target_version"]: leg for leg in rig.lab.campaign(campaign)["downloads"]["legs"]}
    assert [(legs[version]["source_version"], legs[version]["need"]) for version in (SIBLING, FAR)] == [
        (FACTORY, "left_out"),
        (SIBLING, "made"),
    ]
    fetched = bench.link.received - before
    assert PAYLOAD_BYTES <= fetched < PAYLOAD_BYTES + (1 << 20), "the second install did not come by its delta"

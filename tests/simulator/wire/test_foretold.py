"""What was foretold beside what happened on the wire, in sentences."""

from msgspec.structs import replace

from server.campaigns.rehearsal import Band, Blast
from simulator.virtual.outcome import CampaignOutcome
from simulator.wire.foretold import told
from tests.rehearsed import FOUND

CAME = CampaignOutcome(
    campaign="spring",
    state="completed",
    reason="",
    targets=6,
    counts={},
    verified=3,
    fell_back=0,
    failed=0,
    unreached=3,
    harmed=0,
    admitted=3,
    stopped_s=None,
    done_s=None,
    cohorts=(),
    waits={},
)
BAD = Blast(rate=1.0, harmed=Band(p10=1.0, p50=1.0, p90=4.0), stopped=1.0, admitted=Band(p10=20.0, p50=20.0, p90=122.0))


def test_a_campaign_that_was_stopped_is_held_against_the_blast_radius() -> None:
    bad = replace(FOUND, blast=(BAD,), defect_on="gw-r2")
    (text,) = told({"spring": bad, "never-made": bad}, {"spring": replace(CAME, stopped_s=60.0, harmed=2, admitted=70)})
    assert text == (
        "spring was rehearsed with a release that is bad on 100% of gw-r2: it harms 1 to 4 and admits 20 to 122 before it is "
        "stopped, as it was in 100% of the runs; on the wire 2, and 70 were admitted."
    )


def test_another_is_held_against_who_verifies() -> None:
    (text,) = told({"spring": FOUND}, {"spring": CAME})
    assert text == "spring was rehearsed: verified 100 % of 6; on the wire 50 %."

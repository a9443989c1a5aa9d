"""What came out of a rehearsal, for tests of who shows it."""

from msgspec.structs import replace

from server.campaigns.chronicle import campaign_course
from server.campaigns.rehearsal import Band, Blast, Missed, Rehearsal, Stage
from server.planner.decision import Decision, Put
from server.planner.slices import Footprint
from server.planner.words import CampaignState
from server.ports import Point, Unit
from tests.people_side import NOW

BAND = Band(p10=3600.0, p50=7200.0, p90=10800.0)
FOUND = Rehearsal(
    targets=6,
    sampled=6,
    replicas=20,
    done_s=BAND,
    verified=Band(p10=1.0, p50=1.0, p90=1.0),
    unreached=Band(p10=0.0, p50=1.0, p90=2.0),
    cohorts=(
        Stage(name="canary", size=3, opened_s=Band(p10=0.0, p50=0.0, p90=0.0), decided_s=BAND),
        Stage(name="late", size=0, opened_s=BAND, decided_s=Band(p10=None, p50=None, p90=None)),
    ),
    blast=(Blast(rate=0.05, harmed=Band(p10=0.0, p50=1.0, p90=3.0), stopped=0.5),),
    binds={"budget": 1.0},
    broken=0,
    missed=(Missed(target="gw-3", share=0.35),),
    site_bytes={"berlin": 64 << 20, "": 2000},
)


def end_it(unit: Unit) -> None:
    """The campaign took its course: its first cohort for 3000 seconds, and all of it for 7000."""
    loaded = unit.campaigns.load(Footprint(campaign="spring"))
    cohorts = [replace(one, opened_at=NOW + 3000.0 * one.index) for one in loaded.cohorts if one.name != "late"]
    over = replace(loaded.campaign, state=CampaignState.COMPLETED)
    unit.campaigns.commit(Decision(changes=tuple(Put(row=row) for row in (over, *cohorts))))
    points = [
        Point(at=NOW + at, values={"verified": number}) for at, number in ((0.0, 0.0), (7000.0, 6.0), (8000.0, 6.0))
    ]
    unit.courses.put(campaign_course("spring"), points)
    unit.audit.add(at=NOW, kind="x", text="x", actor="x")

"""What came out of a rehearsal, for tests of who shows it."""

from server.campaigns.rehearsal import Band, Blast, Missed, Rehearsal, Stage

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

"""Downloads of a site, limited, through signed messages and a database."""

from typing import Any

from server.planner.words import CampaignState
from tests.server.campaigns.conftest import CAMPAIGN

ONE_AT_A_TIME = CAMPAIGN.replace(
    "  patience: 600s", "  downloads: [{by: site, limit: 1}]\n  rates: []\n  patience: 600s"
).replace("- {name: canary, count: 1}\n    ", "")


async def test_one_after_the_other_downloads_also_when_the_server_dies_in_between(stage: Any) -> None:
    await stage.enrol("t0", "t1", "t2", "t3")
    await stage.publish_releases()
    await stage.settle()
    await stage.start(ONE_AT_A_TIME)
    await stage.settle()
    most, fetching = 0, {"ordered", "downloading"}

    def count(view: Any) -> bool:
        nonlocal most
        counts = view.cohorts[0].counts
        most = max(most, sum(counts.get(state, 0) for state in fetching))
        return view.row.state is CampaignState.COMPLETED

    states = await stage.states()
    assert sorted(states.values()) == ["ordered", "planned", "planned", "planned"]
    waits = next(name for name, state in states.items() if state == "planned")
    told = await stage.service.explain(waits)
    assert (told.kind, told.state) == ("downloads", "planned")
    assert "Held by" in told.text
    stage.boot()
    await stage.live(count)
    assert most == 1
    assert set((await stage.states()).values()) == {"verified"}
    await stage.check_books()

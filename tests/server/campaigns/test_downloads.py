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


LIMITED = ONE_AT_A_TIME.replace("limit: 1}]", "limit: 2}]\n  bandwidth: [{by: site, limit: LIMIT}]")


async def test_the_share_of_the_line_is_signed_in_the_order_and_stays_in_one_that_is_signed_again(stage: Any) -> None:
    await stage.enrol("t0", "t1", "t2")
    await stage.publish_releases()
    await stage.settle()
    await stage.start(LIMITED.replace("LIMIT", "1 MB/s"))
    await stage.settle()
    ordered = [device for device in stage.broker.devices.values() if device.orders]
    assert [device.orders[-1].max_rate for device in ordered] == [500_000, 500_000]
    assert ordered[0].orders[-1].crit == [], "an agent that doesn't know it may follow the order all the same"
    stage.boot(epoch=2)
    for device in ordered:
        device.introduce()
    await stage.settle()
    assert [(device.orders[-1].counter.epoch, device.orders[-1].max_rate) for device in ordered] == [(2, 500_000)] * 2


async def test_a_line_on_which_no_image_arrives_in_time_is_warned_about_with_the_numbers(stage: Any) -> None:
    await stage.enrol("t0")
    await stage.publish_releases()
    await stage.settle()
    text = LIMITED.replace("LIMIT", "4096").replace("  patience: 600s", "  patience: 600s\n  order_ttl: 1h")
    (warning,) = (await stage.service.preview(stage.service.parse(text))).warnings
    assert warning == (
        "At 2048 bytes per second, its share of the 4096 of site, a whole image of 16777216 bytes takes 2.3 hours, "
        "and its order expires after 1.0."
    )
    quick = text.replace("limit: 4096", "limit: 1 MB/s")
    assert (await stage.service.preview(stage.service.parse(quick))).warnings == ()

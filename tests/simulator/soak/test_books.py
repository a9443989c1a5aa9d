"""The books of a soak: they notice what is broken, show it by the shortest trace, and take nothing for broken that isn't."""

from simulator.soak import fleet
from simulator.soak.books import MOST_KEPT, Books, Ledger, Violation
from simulator.soak.chaos import Kind, Strike
from simulator.wire.plan import Moment

MEMBERS = {one.id: one for one in fleet.members(40, seed=1)}
SITE = [name for name, one in MEMBERS.items() if one.site == next(iter(MEMBERS.values())).site]


def books(ledger: Ledger, *, site: int = 2, campaign: int = 3, processes: int = 1) -> Books:
    return Books(MEMBERS, ledger, processes=processes, site_limit=site, campaign_limit=campaign, began=100.0)


def moment(at: float, member: str, kind: str, change: str = "c") -> Moment:
    return Moment(at=at, member=member, kind=kind, order="abc", state="activating", change=change)


def test_as_many_as_may_be_down_are_no_violation() -> None:
    ledger = Ledger()
    made = books(ledger)
    made.hear(0, 110.0, (moment(101, SITE[0], "down"), moment(102, SITE[1], "down"), moment(103, SITE[0], "up")))
    made.hear(0, 120.0, (moment(111, SITE[2], "down"),))
    assert (ledger.broken, made.down, made.most_down["fleet"], made.followed) == (0, 2, 2, 3)


def test_one_more_of_a_site_is_told_with_all_that_are_down_and_what_was_done_to_them() -> None:
    ledger = Ledger()
    made = books(ledger)
    made.struck(Strike(at_s=0.5, number=0, kind=Kind.POWER_CUT, members=(SITE[1],)), 100.5)
    made.hear(0, 110.0, tuple(moment(101 + place, name, "down") for place, name in enumerate(SITE[:3])))
    [found] = ledger.kept
    assert found.kind == "budget"
    assert found.text == f"3 devices of site={MEMBERS[SITE[0]].site} are down and 2 may be."
    assert [line.split()[2].rstrip(":") for line in found.trace[:3]] == SITE[:3]
    assert any("power-cut" in line for line in found.trace)


def test_one_more_of_a_campaign_is_told_and_another_campaign_is_counted_apart() -> None:
    ledger = Ledger()
    made = books(ledger, site=40)
    names = list(MEMBERS)
    made.hear(0, 110.0, tuple(moment(101, name, "down", "one") for name in names[:3]))
    made.hear(0, 111.0, tuple(moment(111, name, "down", "two") for name in names[3:6]))
    assert ledger.broken == 0
    made.hear(0, 112.0, (moment(112, names[6], "down", "two"),))
    assert [one.text for one in ledger.kept] == ["4 devices of campaign=two are down and 3 may be."]


def test_moments_of_two_processes_are_put_in_order_first() -> None:
    ledger = Ledger()
    made = books(ledger, processes=2)
    made.hear(0, 110.0, (moment(101, SITE[0], "down"), moment(102, SITE[1], "down"), moment(105, SITE[2], "down")))
    assert made.down == 0
    made.hear(1, 110.0, (moment(104, SITE[0], "up"),))
    assert (ledger.broken, made.down) == (0, 2)


def test_all_are_counted_and_the_first_of_each_kind_are_kept() -> None:
    ledger = Ledger()
    for place in range(MOST_KEPT + 5):
        ledger.add(Violation(kind="budget", at_s=place, text=""))
    ledger.add(Violation(kind="audit", at_s=0, text=""))
    assert (ledger.broken, len(ledger.kept), dict(ledger.counts)) == (26, 21, {"budget": 25, "audit": 1})


def test_no_budget_of_the_fleet_is_beyond_its_site_or_campaign() -> None:
    for devices in (2, 30, 10_000):
        assert 1 <= fleet.site_limit(devices) <= devices
        assert 1 <= fleet.campaign_limit(devices) <= devices
        assert f"limit: {fleet.site_limit(devices)}" in fleet.campaign(0, devices)
    assert [fleet.is_bad(number) for number in range(6)] == [False, True, False] * 2

"""What former campaigns left behind, on every database: downloads from reports, and how attempts ended."""

from msgspec.structs import replace

from server.planner.lessons import Staging, Tally
from server.planner.rows import AssignmentRow
from server.planner.words import AssignmentState, CampaignState
from server.ports import Unit
from server.storage import SqlDatabase
from tests.contract.storage.rows import CAMPAIGN, COHORTS, agent

MEBI = 1 << 20


def say(unit: Unit, target: str, seq: int, state: str, at: int, order: str = "o1", **evidence: object) -> None:
    body = {"state": state, "at": at, "order_hash": order, "evidence": evidence}
    unit.inbox.add_report(target, target, "j", seq, f"{seq:064x}", body, 1.0)


async def test_downloads_are_paired_by_their_order(database: SqlDatabase) -> None:
    def work(unit: Unit) -> None:
        for name in ("a", "b"):
            unit.identities.add_agent(agent(name), hardware="hw-1", labels={})
        say(unit, "a", 1, "downloading", 100)
        say(unit, "b", 1, "downloading", 100, "o2")
        say(unit, "a", 2, "deferred", 150)
        say(unit, "a", 3, "downloading", 200)
        say(unit, "a", 4, "staged", 300, fetched_bytes={"server": 2 * MEBI, "cache": MEBI, "bundle": 7 * MEBI})
        say(
            unit, "a", 5, "staged", 400, fetched_bytes={"server": MEBI}
        )  # said again, or of a download that nobody saw begin
        say(unit, "b", 2, "staged", 400, "o3", fetched_bytes={"server": MEBI})
        say(unit, "b", 3, "downloading", 500, "o4")
        say(unit, "b", 4, "staged", 600, "o4", fetched_bytes={"bundle": MEBI})  # came over no line

    await database.write(work)
    expected = [Staging(target="a", size_bytes=3 * MEBI, seconds=100.0)]
    assert await database.read(lambda unit: unit.past.stagings(["a", "b", "nobody"], 100)) == expected
    assert await database.read(lambda unit: unit.past.stagings(["b"], 100)) == []
    assert await database.read(lambda unit: unit.past.stagings(["a"], 1)) == []


async def test_attempts_are_counted_by_hardware_and_site_in_campaigns_that_were_carried_on(
    database: SqlDatabase,
) -> None:
    names = [f"t{n}" for n in range(6)]
    ends = ("verified", "fell_back", "failed", "missing", "expired", "regressed")

    def work(unit: Unit) -> None:
        for n, name in enumerate(names):
            labels = {"site": "rome"} if n < 2 else {}
            unit.identities.add_agent(agent(name), hardware="hw-2" if n == 5 else "hw-1", labels=labels)
        for at, (name, state, suspect) in enumerate(
            (
                ("good", CampaignState.COMPLETED, ""),
                ("bad", CampaignState.ROLLED_BACK, ""),
                ("doubted", CampaignState.WATCHING, "it crashes"),
            )
        ):
            row = replace(CAMPAIGN, id=name, change_id=f"chg-{name}", state=state, suspect=suspect)
            cohorts = [replace(one, campaign=name) for one in COHORTS]
            unit.campaigns.create(row, name, cohorts, created_at=float(at), created_by="ada")
            unit.campaigns.add_assignments(
                AssignmentRow(campaign=name, target=target, cohort=int(n > 2), rank=n, state=AssignmentState(ends[n]))
                for n, target in enumerate(names)
            )

    await database.write(work)

    def counted(hardware: str, site: str, *numbers: int) -> Tally:
        attempts, failed, fell_back, silent = numbers
        return Tally(hardware=hardware, site=site, attempts=attempts, failed=failed, fell_back=fell_back, silent=silent)

    found = await database.read(lambda unit: unit.past.tallies("lamp", 10, 100))
    assert [one for one in found if one.attempts] == [
        counted("hw-1", "rome", 2, 0, 1, 0),
        counted("hw-1", "t2", 1, 1, 0, 0),
        counted("hw-1", "t3", 1, 0, 0, 1),
        counted("hw-2", "t5", 1, 0, 1, 0),
    ]
    few = await database.read(lambda unit: unit.past.tallies("lamp", 10, 1))
    assert sum(one.attempts for one in few) == 2  # the first of each cohort
    assert await database.read(lambda unit: unit.past.tallies("other", 10, 100)) == []

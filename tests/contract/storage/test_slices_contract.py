"""Slices of the planner's rows: loaded, and changed by compare-and-set, on SQLite and PostgreSQL."""

import pytest
from msgspec.structs import replace

from firmware.protocol.words import Action
from server.errors import ConflictError
from server.planner.decision import Decision, Delete, Put
from server.planner.download_line import line_of
from server.planner.downloads import place_group
from server.planner.rows import AssignmentRow, CohortRow, GroupRow, TokenRow, campaign_group
from server.planner.slices import Footprint
from server.planner.words import AssignmentState, CampaignState, CohortState, TokenKind
from server.ports import (
    AgentStatus,
    SeqVerdict,
    Unit,
)
from server.storage import SqlDatabase
from tests.contract.storage.rows import CAMPAIGN, assignment, plan


class TestSlices:
    async def test_a_slice_holds_the_rows_of_its_event_and_no_others(self, database: SqlDatabase) -> None:
        token = TokenRow(group="site=rome", target="t1", campaign="old", kind=TokenKind.FAILED, since=2.0)
        groups = [
            GroupRow(key=key, limit=2, used=1)
            for key in ("site=berlin", "site=rome", "site=oslo", campaign_group("spring"))
        ]

        def work(unit: Unit) -> None:
            plan(unit)
            rows = (token, replace(token, target="t2"), *groups)
            unit.campaigns.commit(Decision(changes=tuple(Put(row=row) for row in rows)))

        await database.write(work)
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t1")))
        assert loaded.campaign == replace(CAMPAIGN, version=1)
        assert [cohort.name for cohort in loaded.cohorts] == ["canary", "rest"]
        assert loaded.assignment == assignment("t1", 0, 0, version=1)
        assert loaded.tokens == (replace(token, version=1),)
        assert {group.key for group in loaded.groups} == {"campaign:spring", "site=berlin", "site=rome"}
        assert [row.target for row in await database.read(lambda unit: unit.campaigns.holders(["site=rome"], 9))] == [
            "t1",
            "t2",
        ]

    async def test_first_in_a_line_is_the_lowest_rank_of_a_campaign_that_admits(self, database: SqlDatabase) -> None:
        group = place_group("site=berlin")
        stands = TokenRow(group=line_of(group), target="t1", campaign="spring", kind=TokenKind.IN_LINE, since=2.0)
        waiting = (stands, replace(stands, target="t2", since=1.0), replace(stands, group=line_of("x"), since=0.0))

        def work(unit: Unit) -> None:
            plan(unit)
            rows = (*waiting, GroupRow(key=group, limit=2, used=0))
            unit.campaigns.commit(Decision(changes=tuple(Put(row=row) for row in rows)))

        await database.write(work)
        assert await database.read(lambda unit: unit.campaigns.first_in_line(group)) is None, "it is a draft"
        running = replace(CAMPAIGN, state=CampaignState.RUNNING, version=1)
        await database.write(lambda unit: unit.campaigns.commit(Decision(changes=(Put(row=running),))))
        first = await database.read(lambda unit: unit.campaigns.first_in_line(group))
        assert first is not None
        assert (first.target, first.since) == ("t2", 1.0)
        assert await database.read(lambda unit: unit.campaigns.first_in_line("y")) is None
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t1")))
        assert group in {row.key for row in loaded.groups}

    async def test_without_a_campaign_the_holder_s_is_loaded(self, database: SqlDatabase) -> None:
        await database.write(plan)
        free = await database.read(lambda unit: unit.campaigns.load(Footprint(target="t1")))
        assert (free.campaign, free.assignment) == (None, None)
        assert free.target is not None
        held = replace(free.target, holder="spring", settled=False)
        await database.write(lambda unit: unit.campaigns.commit(Decision(changes=(Put(row=held),))))
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(target="t1")))
        assert loaded.target == replace(held, version=2)
        assert loaded.campaign is not None
        assert loaded.assignment is not None
        unknown = await database.read(lambda unit: unit.campaigns.load(Footprint(target="nobody")))
        assert (unknown.target, unknown.campaign, unknown.groups) == (None, None, ())

    async def test_quarantine_shows_in_the_slice(self, database: SqlDatabase) -> None:
        await database.write(plan)
        await database.write(lambda unit: unit.identities.set_agent_status("t1", AgentStatus.QUARANTINED))
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(target="t1")))
        assert loaded.target is not None
        assert loaded.target.quarantined


class TestCompareAndSet:
    async def test_a_stale_row_is_a_conflict_and_nothing_of_the_decision_is_kept(self, database: SqlDatabase) -> None:
        await database.write(plan)
        group = GroupRow(key="site=berlin", limit=1)
        stale = assignment("t1", 0, 0, state=AssignmentState.ORDERED, version=7)

        def work(unit: Unit) -> None:
            with pytest.raises(ConflictError):
                unit.campaigns.commit(Decision(changes=(Put(row=group), Put(row=stale))))

        await database.write(work)  # even when the transaction goes on
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t1")))
        assert loaded.groups == ()
        assert loaded.assignment == assignment("t1", 0, 0, version=1)

    async def test_a_row_is_inserted_changed_and_deleted_once_each(self, database: SqlDatabase) -> None:
        await database.write(plan)
        token = TokenRow(group="g", target="t1", campaign="spring", kind=TokenKind.IN_FLIGHT, since=2.0)
        stored = replace(token, version=1)

        async def commit(*changes: Put | Delete) -> None:
            await database.write(lambda unit: unit.campaigns.commit(Decision(changes=changes)))

        await commit(Put(row=token))
        for bad in (Put(row=token), Put(row=replace(token, version=2)), Delete(row=replace(token, version=2))):
            with pytest.raises(ConflictError):
                await commit(bad)
        await commit(Put(row=replace(stored, kind=TokenKind.MISSING)))
        with pytest.raises(ConflictError):
            await commit(Put(row=stored))
        await commit(Delete(row=replace(stored, version=2)))
        with pytest.raises(ConflictError):
            await commit(Delete(row=replace(stored, version=2)))
        await commit(Put(row=token))

    async def test_every_column_of_an_assignment_and_a_cohort_is_kept(self, database: SqlDatabase) -> None:
        await database.write(plan)
        changed = AssignmentRow(
            campaign="spring",
            target="t1",
            cohort=1,
            rank=9,
            state=AssignmentState.TRIAL,
            action=Action.ROLLBACK,
            attempt=2,
            order_hash="o" * 64,
            heard=True,
            permit_nonce="n",
            permitted_at=1.25,
            committed_at=2.5,
            state_since=3.5,
            reason_kind="boot-failed",
            reason="Because.",
            wake_at=4.5,
            version=1,
        )
        cohort = CohortRow(
            campaign="spring",
            index=1,
            name="rest",
            state=CohortState.OPEN,
            size=5,
            counts={AssignmentState.TRIAL: 2, AssignmentState.VERIFIED: 3},
            attempted=4,
            moved_to_late=1,
            opened_at=8.5,
            verdict_text="Four more.",
            version=1,
        )
        await database.write(lambda unit: unit.campaigns.commit(Decision(changes=(Put(row=changed), Put(row=cohort)))))
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t1")))
        assert loaded.assignment == replace(changed, version=2)
        assert loaded.cohorts[1] == replace(cohort, version=2)

    async def test_the_planner_cannot_make_targets(self, database: SqlDatabase) -> None:
        await database.write(plan)
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(target="t1")))
        assert loaded.target is not None
        made = Put(row=replace(loaded.target, id="t9", version=0))
        with pytest.raises(ConflictError):
            await database.write(lambda unit: unit.campaigns.commit(Decision(changes=(made,))))


class TestWhatIsPutOff:
    """Within a transaction rows are fetched ahead and written together; nobody may see the difference."""

    async def test_a_query_sees_what_the_same_transaction_decided_before(self, database: SqlDatabase) -> None:
        await database.write(plan)

        def work(unit: Unit) -> None:
            unit.campaigns.expect(["t1", "nobody"])
            for state in (AssignmentState.ORDERED, AssignmentState.STAGED):
                row = unit.campaigns.load(Footprint(campaign="spring", target="t1")).assignment
                assert row is not None
                unit.campaigns.commit(Decision(changes=(Put(row=replace(row, state=state)),)))
            (staged,) = unit.campaigns.in_states("spring", [AssignmentState.STAGED], 9)
            assert (staged.target, staged.version) == ("t1", 3)
            assert unit.campaigns.load(Footprint(campaign="spring", target="t1")).assignment == staged

        await database.write(work)
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t1")))
        assert loaded.assignment is not None
        assert (loaded.assignment.state, loaded.assignment.version) == (AssignmentState.STAGED, 3)

    async def test_a_token_taken_and_given_back_in_one_transaction_leaves_nothing(self, database: SqlDatabase) -> None:
        await database.write(plan)
        token = TokenRow(group="g", target="t1", campaign="spring", kind=TokenKind.IN_FLIGHT, since=2.0)

        def work(unit: Unit) -> None:
            for _ in range(2):
                unit.campaigns.commit(Decision(changes=(Put(row=token),)))
                (held,) = unit.campaigns.load(Footprint(campaign="spring", target="t1")).tokens
                assert held == replace(token, version=1)
                unit.campaigns.commit(Decision(changes=(Delete(row=held),)))
            assert unit.campaigns.load(Footprint(campaign="spring", target="t1")).tokens == ()

        await database.write(work)
        assert await database.read(lambda unit: unit.campaigns.holders(["g"], 9)) == []

    async def test_a_stored_token_given_back_and_taken_anew_is_one_row(self, database: SqlDatabase) -> None:
        await database.write(plan)
        token = TokenRow(group="g", target="t1", campaign="spring", kind=TokenKind.IN_FLIGHT, since=2.0)
        await database.write(lambda unit: unit.campaigns.commit(Decision(changes=(Put(row=token),))))

        def work(unit: Unit) -> None:
            unit.campaigns.commit(Decision(changes=(Delete(row=replace(token, version=1)),)))
            unit.campaigns.commit(Decision(changes=(Put(row=replace(token, since=3.0)),)))

        await database.write(work)
        held = await database.read(lambda unit: unit.campaigns.holders(["g"], 9))
        assert held == [replace(token, since=3.0, version=1)]

    async def test_what_identity_and_presence_change_is_seen_after_it_was_fetched(self, database: SqlDatabase) -> None:
        await database.write(plan)

        def work(unit: Unit) -> None:
            unit.campaigns.expect(["t1"])
            before = unit.campaigns.load(Footprint(target="t1")).target
            assert before is not None
            assert (before.offline, before.quarantined) == (True, False)
            unit.campaigns.commit(Decision(changes=(Put(row=replace(before, running_version="9")),)))
            unit.fleet.set_presence(before.agent, online=True, at=1.0)
            unit.identities.set_agent_status(before.agent, AgentStatus.QUARANTINED)
            after = unit.campaigns.load(Footprint(target="t1")).target
            assert after is not None
            assert (after.offline, after.quarantined, after.running_version) == (False, True, "9")
            agent = unit.identities.agent(before.agent)
            assert agent is not None
            assert agent.status is AgentStatus.QUARANTINED

        await database.write(work)

    async def test_a_failed_transaction_keeps_nothing_of_what_was_put_off(self, database: SqlDatabase) -> None:
        await database.write(plan)

        def work(unit: Unit) -> None:
            unit.inbox.add_report("t1", "t1", "j", 1, "h1", {}, 1.0)
            unit.outbox.add("topic", b"words")
            raise ValueError("it breaks at its end")

        with pytest.raises(ValueError, match="its end"):
            await database.write(work)
        assert await database.read(lambda unit: (unit.inbox.unprocessed(9), unit.outbox.pending(9))) == ([], [])

    async def test_many_reports_keep_their_order_and_their_places(self, database: SqlDatabase) -> None:
        await database.write(plan)
        places = [("t1", "j", seq) for seq in range(1, 8)] + [("t2", "k", seq) for seq in range(1, 4)]
        mixed = sorted(places, key=lambda place: (place[2], place[0]))

        def work(unit: Unit) -> None:
            unit.inbox.expect(mixed)
            for agent, journal, seq in mixed:
                assert unit.inbox.sequence(agent, journal, seq, 1, f"h{seq}") == SeqVerdict.NEW
                unit.inbox.add_report(agent, agent, journal, seq, f"h{seq}", {"seq": seq}, 1.0)
                assert unit.inbox.sequence(agent, journal, seq, 1, f"h{seq}") == SeqVerdict.REPEAT
                assert unit.inbox.sequence(agent, journal, seq, 1, "other") == SeqVerdict.CLONE

        await database.write(work)

        def check(unit: Unit) -> None:
            unit.inbox.expect([*mixed, ("t1", "j", 8), ("t3", "new", 1)])
            assert [(item.target, item.body["seq"]) for item in unit.inbox.unprocessed(99)] == [
                (agent, seq) for agent, _, seq in mixed
            ]
            for agent, journal, seq in mixed:
                assert unit.inbox.sequence(agent, journal, seq, 1, f"h{seq}") == SeqVerdict.REPEAT
                assert unit.inbox.sequence(agent, journal, seq, 1, "other") == SeqVerdict.CLONE
            assert unit.inbox.sequence("t1", "j", 8, 8, "h8") == SeqVerdict.NEW
            assert unit.inbox.sequence("t1", "j", 9, 8, "h9") == SeqVerdict.EARLY
            assert unit.inbox.sequence("t3", "new", 1, 1, "h1") == SeqVerdict.NEW

        await database.read(check)

"""Campaigns, their cohorts and assignments, on SQLite and PostgreSQL."""

import dataclasses

import pytest
from msgspec.structs import replace

from firmware.errors import RefusedError
from firmware.protocol.words import Action
from server.errors import ConflictError
from server.planner.decision import Decision, Put
from server.planner.revision_rows import RevisionRow, RevisionState
from server.planner.rows import ReleaseKey
from server.planner.selection import Selection
from server.planner.slices import Footprint
from server.planner.strategy import PreconditionPolicy
from server.planner.surroundings import Rival, Surroundings, Word
from server.planner.words import AssignmentState, CampaignState, CohortState
from server.ports import (
    AgentStatus,
    Before,
    ReleaseState,
    Unit,
)
from server.storage import SqlDatabase
from tests.contract.storage.rows import CAMPAIGN, COHORTS, RELEASE, STRATEGY, assignment, enrol, plan


class TestCampaigns:
    @pytest.mark.parametrize("page", [1, 2, 5, 6])
    async def test_all_assignments_are_stored_whatever_the_page(self, database: SqlDatabase, page: int) -> None:
        step = ReleaseKey(product="lamp", version="1", counter=1, sha256="1" * 64)
        rows = [assignment(f"t{number}", number, gateways=("t9",), traits={"rack": "7"}) for number in range(1, 5)]
        rows.append(assignment("t5", 5, 0, via=step, state=AssignmentState.ORDERED, block_size=3, control="t1"))

        def work(unit: Unit) -> None:
            enrol(unit, *(row.target for row in rows))
            unit.campaigns.create(CAMPAIGN, "spring", COHORTS, created_at=3.0, created_by="ann")
            unit.campaigns.add_assignments((row for row in rows), page=page)

        await database.write(work)
        found = await database.read(lambda unit: unit.campaigns.assignments("spring").rows)
        assert sorted(found, key=lambda row: row.target) == [replace(row, version=1) for row in rows]

    async def test_a_campaign_comes_back_as_it_went_in(self, database: SqlDatabase) -> None:
        selection = Selection(labels={"site": "berlin"})
        await database.write(
            lambda unit: unit.campaigns.create(
                CAMPAIGN, "spring", COHORTS, created_at=3.0, created_by="ann", selection=selection
            )
        )
        view = await database.read(lambda unit: unit.campaigns.view("spring"))
        assert view is not None
        assert view.row == replace(CAMPAIGN, version=1)
        assert view.cohorts == tuple(replace(cohort, version=1) for cohort in COHORTS)
        assert (view.name, view.created_at, view.created_by, view.selection) == ("spring", 3.0, "ann", selection)
        assert await database.read(lambda unit: unit.campaigns.list()) == [view]

    async def test_every_revision_is_kept_and_the_proposed_one_comes_with_the_slice(
        self, database: SqlDatabase
    ) -> None:
        await database.write(plan)
        second = RevisionRow(
            campaign="spring",
            number=2,
            state=RevisionState.PROPOSED,
            strategy=dataclasses.replace(STRATEGY, patience_s=5.0),
            selection=Selection(labels={"site": "berlin"}),
            needed=2,
            agreed=("bob",),
            by="ann",
            at=7.5,
            changes=("patience: 13s → 5s",),
        )
        await database.write(lambda unit: unit.campaigns.commit(Decision(changes=(Put(row=second),))))
        stored = replace(second, version=1)
        first, *others = await database.read(lambda unit: unit.campaigns.revisions("spring"))
        assert (first.number, first.state, first.strategy, first.by) == (1, RevisionState.ACCEPTED, STRATEGY, "ann")
        assert others == [stored]
        assert await database.read(lambda unit: unit.campaigns.revisions("spring", 1, 5)) == [stored]
        assert await database.read(lambda unit: unit.campaigns.revisions("spring", 0, 1)) == [first]
        assert await database.read(lambda unit: unit.campaigns.revisions("spring", 2)) == []
        assert (await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring")))).proposal == stored
        view = await database.read(lambda unit: unit.campaigns.view("spring"))
        assert view is not None
        assert view.proposal == stored
        accepted = replace(stored, state=RevisionState.ACCEPTED)
        await database.write(lambda unit: unit.campaigns.commit(Decision(changes=(Put(row=accepted),))))
        assert (await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring")))).proposal is None

    async def test_a_draft_made_anew_keeps_its_revisions_and_nothing_else(self, database: SqlDatabase) -> None:
        await database.write(plan)
        anew = replace(CAMPAIGN, strategy=dataclasses.replace(STRATEGY, patience_s=5.0), revision=2, version=1)
        values = {"created_at": 9.0, "created_by": "bob", "selection": Selection(labels={"site": "berlin"})}
        await database.write(lambda unit: unit.campaigns.redraft(anew, "spring", COHORTS[:1], **values))
        view = await database.read(lambda unit: unit.campaigns.view("spring"))
        assert view is not None
        assert (view.row, view.selection) == (replace(anew, version=2), values["selection"])
        assert [cohort.name for cohort in view.cohorts] == ["canary"]
        assert (await database.read(lambda unit: unit.campaigns.assignments("spring"))).rows == []
        assert [row.number for row in await database.read(lambda unit: unit.campaigns.revisions("spring"))] == [1, 2]
        with pytest.raises(ConflictError):
            await database.write(lambda unit: unit.campaigns.redraft(anew, "spring", (), **values))

    async def test_a_planned_target_comes_with_the_other_campaigns_that_want_it(self, database: SqlDatabase) -> None:
        await database.write(plan)
        other = replace(
            CAMPAIGN,
            id="summer",
            state=CampaignState.PAUSED,
            strategy=dataclasses.replace(STRATEGY, priority=7),
            release=ReleaseKey(product="lamp", version="3", counter=3, sha256="b" * 64),
        )
        cohorts = tuple(replace(cohort, campaign="summer") for cohort in COHORTS)
        rows = [
            replace(assignment("t1", 0, 0), campaign="summer", state=AssignmentState.ORDERED),
            replace(assignment("t2", 1, 0), campaign="summer", state=AssignmentState.PLANNED, wake_at=9.0),
            replace(assignment("t3", 2, 0), campaign="summer", state=AssignmentState.ACTIVATING),
        ]

        def work(unit: Unit) -> None:
            unit.campaigns.create(other, "summer", cohorts, created_at=8.0, created_by="ann")
            unit.campaigns.add_assignments(rows)

        await database.write(work)

        def look(unit: Unit) -> list[Surroundings]:
            pairs = [("spring", "t1"), ("spring", "t2"), ("spring", "t3"), ("summer", "t1"), ("summer", "t2")]
            return [unit.campaigns.load(Footprint(campaign=name, target=target)).around for name, target in pairs]

        first, second, third, ordered, draft = await database.read(look)
        assert first.made_at == 3.0
        assert first.rivals == (
            Rival(
                campaign="summer",
                campaign_state="paused",
                priority=7,
                made_at=8.0,
                product="lamp",
                counter=3,
                state="ordered",
            ),
        )
        assert [(rival.state, rival.waits) for rival in second.rivals] == [("planned", True)]
        assert third.rivals == (), "who has a permit is left to end"
        assert ordered.rivals == (), "who was admitted looks at nobody"
        assert draft.rivals == (), "a draft wants nothing yet"

    async def test_words_that_a_strategy_waits_for_come_with_the_target(self, database: SqlDatabase) -> None:
        asks = replace(
            CAMPAIGN, strategy=dataclasses.replace(STRATEGY, preconditions=(PreconditionPolicy(name="backup"),))
        )
        word = Word(name="backup", key="site=berlin", good=False, by="bob", reason="", at=1.0, expires_at=9.0)

        def work(unit: Unit) -> None:
            enrol(unit, "t1", site="berlin")
            unit.campaigns.create(asks, "spring", COHORTS, created_at=3.0, created_by="ann")
            unit.campaigns.add_assignments([assignment("t1", 0, 0)])
            for one in (word, replace(word, key="site=rome"), replace(word, name="other"), replace(word, key="t1")):
                unit.fleet.put_word(one)
            unit.fleet.put_word(replace(word, key="t1", good=True))

        await database.write(work)
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t1")))
        assert loaded.around.words == (word, replace(word, key="t1", good=True))

    async def test_a_name_is_taken_once(self, database: SqlDatabase) -> None:
        await database.write(plan)
        other = replace(CAMPAIGN, id="summer")
        with pytest.raises(RefusedError) as caught:
            await database.write(
                lambda unit: unit.campaigns.create(other, "spring", (), created_at=1.0, created_by="ann")
            )
        assert caught.value.kind == "campaign-exists"

    async def test_eligible_are_the_active_that_fit(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            enrol(unit, "t3", "t1", "gone", site="berlin", floor="2")
            enrol(unit, "t4", site="berlin")
            enrol(unit, "t5", hardware="hw-9", site="berlin", floor="2")
            unit.identities.set_agent_status("gone", AgentStatus.QUARANTINED)

        await database.write(work)

        async def eligible(**labels: str) -> list[str]:
            selection = Selection(labels=labels)
            return list(await database.read(lambda unit: unit.campaigns.eligible("lamp", ["hw-1"], selection)))

        assert await eligible(site="berlin", floor="2") == ["t1", "t3"]
        assert await eligible() == ["t1", "t3", "t4"]
        assert await eligible(site="berlin", floor="3") == []

    async def test_a_step_on_the_way_comes_back_as_it_went_in(self, database: SqlDatabase) -> None:
        via = ReleaseKey(product="lamp", version="1.5", counter=1, sha256="5" * 64)

        def work(unit: Unit) -> None:
            plan(unit)
            loaded = unit.campaigns.load(Footprint(campaign="spring", target="t1"))
            assert loaded.assignment is not None
            assert loaded.campaign is not None
            put = (Put(row=replace(loaded.assignment, via=via)), Put(row=replace(loaded.campaign, deltas_until=4.5)))
            unit.campaigns.commit(Decision(changes=put))

        await database.write(work)
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t1")))
        assert loaded.assignment is not None
        assert loaded.campaign is not None
        assert (loaded.assignment.via, loaded.campaign.deltas_until) == (via, 4.5)

        def over(unit: Unit) -> None:
            row = unit.campaigns.load(Footprint(campaign="spring", target="t1")).assignment
            assert row is not None
            unit.campaigns.commit(Decision(changes=(Put(row=replace(row, via=None)),)))

        await database.write(over)
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t1")))
        assert loaded.assignment is not None
        assert loaded.assignment.via is None

    async def test_assignments_page_by_cohort_and_rank(self, database: SqlDatabase) -> None:
        await database.write(plan)
        first = await database.read(lambda unit: unit.campaigns.assignments("spring", limit=2))
        rest = await database.read(lambda unit: unit.campaigns.assignments("spring", limit=2, cursor=first.next))
        assert [row.target for row in (*first.rows, *rest.rows)] == ["t1", "t3", "t2"]
        assert rest.next is None
        assert first.rows[0] == assignment("t1", 0, 0, version=1)
        only = await database.read(
            lambda unit: unit.campaigns.assignments("spring", cohort=1, states=[AssignmentState.PLANNED])
        )
        assert [row.target for row in only.rows] == ["t3", "t2"]
        for cursor in ("x", "1.2", "1.-2.t1", "9" * 200, "１.1.t1"):
            with pytest.raises(RefusedError):
                await database.read(lambda unit, at=cursor: unit.campaigns.assignments("spring", cursor=at))  # type: ignore[misc]

    async def test_candidates_are_planned_wait_for_nothing_and_come_by_rank(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            plan(unit)
            enrol(unit, "t4", "t5")
            unit.campaigns.add_assignments(
                [assignment("t4", 2, wake_at=9.0), assignment("t5", 3, state=AssignmentState.ORDERED)]
            )

        await database.write(work)
        rows = await database.read(lambda unit: unit.campaigns.candidates("spring", 1, 10))
        assert [row.target for row in rows] == ["t3", "t2"]
        assert len(await database.read(lambda unit: unit.campaigns.candidates("spring", 1, 1))) == 1
        ordered = await database.read(lambda unit: unit.campaigns.in_states("spring", [AssignmentState.ORDERED], 10))
        assert [row.target for row in ordered] == ["t5"]

    async def test_assignments_in_some_states_are_found_by_cohort_and_action(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            plan(unit)
            enrol(unit, "t4", "t5")
            back = {"state": AssignmentState.ORDERED, "action": Action.ROLLBACK, "back_reason": "it hums"}
            unit.campaigns.add_assignments([assignment("t4", 2, **back), assignment("t5", 3, 0, **back)])

        await database.write(work)

        def found(unit: Unit, **which: object) -> list[str]:
            states = [AssignmentState.PLANNED, AssignmentState.ORDERED]
            return sorted(row.target for row in unit.campaigns.in_states("spring", states, 10, **which))  # type: ignore[arg-type]

        assert await database.read(lambda unit: found(unit, cohort=1)) == ["t2", "t3", "t4"]
        assert await database.read(lambda unit: found(unit, action=Action.ROLLBACK)) == ["t4", "t5"]
        assert await database.read(lambda unit: found(unit, cohort=0, action=Action.INSTALL)) == ["t1"]
        row = await database.read(
            lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t4")).assignment
        )
        assert row is not None
        assert row.back_reason == "it hums"

    async def test_campaigns_of_a_release_and_those_to_undo_are_found(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            plan(unit)
            done = replace(CAMPAIGN, id="done", state=CampaignState.COMPLETED, suspect="t1 hangs", undoes="spring")
            other = ReleaseKey(product="lamp", version="3", counter=3, sha256="f" * 64)
            for row in (done, replace(done, id="told", proposed=""), replace(CAMPAIGN, id="third", release=other)):
                unit.campaigns.create(row, row.id, (), created_at=4.0, created_by="ann")

        await database.write(work)
        rows = await database.read(lambda unit: unit.campaigns.with_release("lamp", "2"))
        assert [row.id for row in rows] == ["done", "spring", "told"]
        assert (rows[0].suspect, rows[0].undoes, rows[0].proposed) == ("t1 hangs", "spring", None)
        assert [row.id for row in await database.read(lambda unit: unit.campaigns.to_undo(9))] == ["done"]
        assert len(await database.read(lambda unit: unit.campaigns.to_undo(0))) == 0

    @pytest.mark.parametrize(("why", "found"), [("no-previous", ["spring"]), ("health-failed", [])])
    async def test_a_campaign_that_was_rolled_back_is_to_be_undone_where_somebody_could_not_go_back(
        self, database: SqlDatabase, why: str, found: list[str]
    ) -> None:
        def work(unit: Unit) -> None:
            enrol(unit, "t1", "t2")
            back = replace(CAMPAIGN, state=CampaignState.ROLLED_BACK)
            unit.campaigns.create(back, "spring", COHORTS, created_at=3.0, created_by="ann")
            failed = assignment("t1", 0, 0, state=AssignmentState.FAILED, reason_kind=why, came_from="b" * 64)
            unit.campaigns.add_assignments([failed, assignment("t2", 1, state=AssignmentState.ROLLED_BACK)])

        await database.write(work)
        assert [row.id for row in await database.read(lambda unit: unit.campaigns.to_undo(9))] == found

    async def test_who_runs_the_campaigns_release_is_found_with_what_its_other_slot_has(
        self, database: SqlDatabase
    ) -> None:
        def work(unit: Unit) -> None:
            plan(unit)
            for name, sha256 in (("t1", "a" * 64), ("t2", "b" * 64), ("t3", "a" * 64)):
                target = unit.campaigns.load(Footprint(target=name)).target
                assert target is not None
                unit.campaigns.commit(Decision(changes=(Put(row=replace(target, running_sha256=sha256)),)))
            unit.fleet.note_report("t1", at=1.0, slot="A", previous_version="1")
            unit.identities.set_agent_status("t3", AgentStatus.REVOKED)

        await database.write(work)
        assert await database.read(lambda unit: unit.campaigns.running_release("spring")) == {"t1": Before(version="1")}

    async def test_a_step_on_the_way_is_told_when_it_is_suspect(self, database: SqlDatabase) -> None:
        step = ReleaseKey(product="lamp", version="2", counter=2, sha256="a" * 64)

        def work(unit: Unit) -> None:
            enrol(unit, "t1", "t2")
            unit.releases.add(RELEASE)
            unit.campaigns.create(CAMPAIGN, "spring", COHORTS, created_at=3.0, created_by="ann")
            unit.campaigns.add_assignments([assignment("t1", 0, 0, via=step), assignment("t2", 1)])

        await database.write(work)

        def told(unit: Unit, target: str) -> bool:
            return unit.campaigns.load(Footprint(campaign="spring", target=target)).around.step_is_suspect

        assert not await database.read(lambda unit: told(unit, "t1"))
        await database.write(lambda unit: unit.releases.set_state("lamp", "2", ReleaseState.SUSPECT))
        assert await database.read(lambda unit: told(unit, "t1"))
        assert not await database.read(lambda unit: told(unit, "t2"))

    async def test_a_younger_campaign_is_told_where_drift_is_corrected(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            enrol(unit, "t1")
            correcting = dataclasses.replace(STRATEGY, on_drift="correct")
            rows = (
                replace(CAMPAIGN, strategy=correcting),
                replace(CAMPAIGN, id="autumn", state=CampaignState.RUNNING),
                replace(CAMPAIGN, id="winter"),
            )
            for at, row in enumerate(rows):
                unit.campaigns.create(row, row.id, COHORTS[:0], created_at=float(at), created_by="ann")
                unit.campaigns.add_assignments([assignment("t1", 0, 0, campaign=row.id, came_from="c" * 64)])

        await database.write(work)

        def younger(unit: Unit, campaign: str) -> str | None:
            return unit.campaigns.load(Footprint(campaign=campaign, target="t1")).around.younger

        assert await database.read(lambda unit: younger(unit, "spring")) == "autumn", "a draft has no say"
        assert await database.read(lambda unit: younger(unit, "autumn")) is None, "it corrects nothing"

    async def test_targets_that_drifted_are_counted_by_their_last_campaign(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            plan(unit)
            for name in ("t1", "t2"):
                loaded = unit.campaigns.load(Footprint(campaign="spring", target=name))
                assert loaded.target is not None
                assert loaded.assignment is not None
                held = replace(loaded.target, holder="spring")
                drifted = replace(loaded.assignment, state=AssignmentState.DRIFTED)
                changes = (Put(row=drifted), *((Put(row=held),) if name == "t1" else ()))
                unit.campaigns.commit(Decision(changes=changes))

        await database.write(work)
        assert await database.read(lambda unit: unit.fleet.drifted()) == 1

    async def test_what_was_said_of_a_cohort_is_kept(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: plan(unit))
        told = replace(COHORTS[1], state=CohortState.ROLLED_BACK, back_reason="it hums", going_back=2, version=1)
        await database.write(lambda unit: unit.campaigns.commit(Decision(changes=(Put(row=told),))))
        view = await database.read(lambda unit: unit.campaigns.view("spring"))
        assert view is not None
        assert view.cohorts[1] == replace(told, version=2)

    async def test_due_are_those_whose_time_has_come_oldest_first(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            enrol(unit, "t1", "t2", "t3")
            unit.campaigns.create(replace(CAMPAIGN, wake_at=30.0), "spring", (), created_at=1.0, created_by="ann")
            unit.campaigns.add_assignments(
                [assignment("t1", 0, wake_at=20.0), assignment("t2", 1, wake_at=10.0), assignment("t3", 2)]
            )

        assert await database.read(lambda unit: unit.campaigns.next_wake()) is None
        await database.write(work)
        assert await database.read(lambda unit: unit.campaigns.next_wake()) == 10.0
        campaigns, assignments = await database.read(lambda unit: unit.campaigns.due(20.0, 10))
        assert (list(campaigns), [row.target for row in assignments]) == ([], ["t2", "t1"])
        campaigns, assignments = await database.read(lambda unit: unit.campaigns.due(30.0, 1))
        assert ([row.id for row in campaigns], [row.target for row in assignments]) == (["spring"], ["t2"])

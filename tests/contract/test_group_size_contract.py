"""The counters of group members, against a count of the rows, after any history."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from server.planner.decision import Decision, Delete, Put
from server.planner.rows import GroupRow, TokenRow
from server.planner.slices import Footprint
from server.planner.surroundings import GroupSize
from server.planner.words import TokenKind
from server.ports import AgentRecord, AgentStatus, Drift, Unit
from server.storage import SqlDatabase

NAMES = ("a", "b", "c")
SITES = ("x", "y")
labels = st.fixed_dictionaries({}, optional={"site": st.sampled_from(SITES), "s=x": st.sampled_from(["", "x"])})
names = st.sampled_from(NAMES)
happenings = st.one_of(
    st.tuples(st.just("presence"), names, st.booleans()),
    st.tuples(st.just("labels"), names, labels),
    st.tuples(st.just("status"), names, st.sampled_from(AgentStatus)),
    st.tuples(
        st.just("take"), names, st.sampled_from(["site=x", "site=y", "agent.site=x", "agent.site=y", "campaign:c"])
    ),
    st.tuples(st.just("release"), names, st.none()),
    st.tuples(st.just("forget"), names, st.none()),
)


def enrol(unit: Unit, name: str, **given_labels: str) -> None:
    record = AgentRecord(
        id=name,
        status=AgentStatus.ACTIVE,
        report_keyid=f"key-{name}",
        report_key={},
        certificate_serial="1",
        enrolled_at=1.0,
    )
    unit.identities.add_agent(record, hardware="hw", labels=given_labels)


def happen(unit: Unit, what: str, name: str, value: object) -> None:
    loaded = unit.campaigns.load(Footprint(target=name))
    match what:
        case "presence":
            unit.fleet.set_presence(name, online=bool(value), at=1.0)
        case "labels":
            assert isinstance(value, dict)
            unit.fleet.set_inventory(name, labels=value, capabilities=[])
        case "status":
            assert isinstance(value, AgentStatus)
            unit.identities.set_agent_status(name, value)
        case "take" if value not in {token.group for token in loaded.tokens}:
            row = TokenRow(group=str(value), target=name, campaign="c", kind=TokenKind.IN_FLIGHT, since=1.0)
            unit.campaigns.commit(Decision(changes=(Put(row=row),)))
        case "release":
            unit.campaigns.commit(Decision(changes=tuple(Delete(row=row) for row in loaded.tokens)))
        case "forget":
            unit.fleet.forget_presence()


def test_the_counters_are_exact_after_any_history(database_url: str) -> None:
    database = SqlDatabase.open(database_url)

    @given(history=st.lists(happenings, max_size=25))
    @settings(deadline=None)
    def live(history: list[tuple[str, str, object]]) -> None:
        def work(unit: Unit) -> None:
            for place, name in enumerate(NAMES):
                enrol(unit, name, site=SITES[place % 2])
            for what, name, value in history:
                happen(unit, what, name, value)
                assert unit.fleet.recount_groups() == [], (what, name, value)

        asyncio.run(database.read(work))  # which rolls all of it back

    try:
        live()
    finally:
        asyncio.run(database.close())


async def test_the_sizes_of_a_target_s_groups_come_with_it(database_url: str) -> None:
    database = SqlDatabase.open(database_url)

    def work(unit: Unit) -> tuple[tuple[GroupSize, ...], bool, bool]:
        for name in NAMES:
            enrol(unit, name, site="x")
        unit.fleet.set_presence("a", online=True, at=1.0)
        take = TokenRow(group="site=x", target="b", campaign="c", kind=TokenKind.IN_FLIGHT, since=1.0)
        unit.campaigns.commit(
            Decision(changes=(Put(row=take), Put(row=GroupRow(key="site=x", limit=3, keep=1, used=1))))
        )
        online, offline = (unit.campaigns.load(Footprint(target=name)) for name in ("a", "b"))
        assert offline.groups == (GroupRow(key="site=x", limit=3, keep=1, used=1, version=1),)
        assert online.target is not None
        assert offline.target is not None
        return online.around.sizes, online.target.offline, offline.target.offline

    sizes, *are_offline = await database.write(work)
    assert sizes == (GroupSize(key="site=x", members=3, offline=1),)
    assert are_offline == [False, True]
    await database.close()


async def test_what_was_counted_wrong_is_repaired_and_told(database_url: str) -> None:
    database = SqlDatabase.open(database_url)

    def spoil(unit: Unit) -> None:
        enrol(unit, "a", site="x")
        enrol(unit, "b", site="y")
        sql = unit.fleet._db  # type: ignore[attr-defined]
        sql.exec_driver_sql("UPDATE group_size SET members = 5 WHERE key = 'site=x'")
        sql.exec_driver_sql("UPDATE group_size SET key = 'site=z' WHERE key = 'site=y'")

    await database.write(spoil)
    assert await database.write(lambda unit: unit.fleet.recount_groups()) == [
        Drift(key="site=x", members=1, members_counted=5, offline=1, offline_counted=1),
        Drift(key="site=y", members=1, members_counted=0, offline=1, offline_counted=0),
        Drift(key="site=z", members=0, members_counted=1, offline=0, offline_counted=1),
    ]
    assert await database.write(lambda unit: unit.fleet.recount_groups()) == []
    await database.close()

"""Agents, tokens and releases as they are stored, on SQLite and PostgreSQL."""

import dataclasses

import pytest

from firmware.errors import RefusedError
from server.planner.slices import Footprint
from server.ports import (
    AgentRecord,
    ApiToken,
    ClaimToken,
    DeltaRecord,
    EncryptedImage,
    KnownDevice,
    ReleaseState,
    Requirements,
    Role,
    StoredFile,
    Unit,
)
from server.storage import SqlDatabase
from tests.contract.storage.rows import RELEASE, agent, enrol


class TestIdentities:
    CLAIM = ClaimToken(id="c1", secret_sha256="s" * 64, expires_at=100.0, uses_left=1, labels={"site": "x"})

    async def test_a_claim_is_spent_once(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: unit.identities.add_claim(self.CLAIM))
        spent = await database.write(lambda unit: unit.identities.spend_claim("c1", "s" * 64, 99.0))
        assert spent == dataclasses.replace(self.CLAIM, uses_left=0)
        with pytest.raises(RefusedError) as caught:
            await database.write(lambda unit: unit.identities.spend_claim("c1", "s" * 64, 99.0))
        assert caught.value.kind == "claim-used-up"

    @pytest.mark.parametrize(
        ("claim", "secret", "now", "kind"),
        [
            ("c2", "s" * 64, 1.0, "claim-unknown"),
            ("c1", "t" * 64, 1.0, "claim-unknown"),
            ("c1", "s" * 64, 100.0, "claim-expired"),
        ],
    )
    async def test_a_wrong_claim_costs_no_use(
        self, database: SqlDatabase, claim: str, secret: str, now: float, kind: str
    ) -> None:
        await database.write(lambda unit: unit.identities.add_claim(self.CLAIM))
        with pytest.raises(RefusedError) as caught:
            await database.write(lambda unit: unit.identities.spend_claim(claim, secret, now))
        assert caught.value.kind == kind
        assert await database.read(lambda unit: unit.identities.claims()) == [self.CLAIM]

    async def test_an_agent_brings_its_target_and_is_found_by_its_key(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: enrol(unit, "t1", site="berlin"))
        assert await database.read(lambda unit: unit.identities.agent("t1")) == agent("t1")
        assert await database.read(lambda unit: unit.identities.agent_by_report_key("key-t1")) == agent("t1")
        target = await database.read(lambda unit: unit.fleet.target("t1"))
        assert target is not None
        assert (target.agent, target.hardware, target.labels) == ("t1", "hw-1", {"site": "berlin"})

    async def test_an_operators_word_on_the_time_zone_counts_before_the_devices_own(
        self, database: SqlDatabase
    ) -> None:
        def work(unit: Unit) -> list[str | None]:
            enrol(unit, "told", timezone="Asia/Tokyo")
            enrol(unit, "says", "silent")
            for name in ("told", "says"):
                unit.fleet.set_inventory(name, labels={"timezone": "Europe/Berlin"}, capabilities=[])
            targets = [unit.campaigns.load(Footprint(target=name)).target for name in ("told", "says", "silent")]
            return [target.zone for target in targets if target]

        assert await database.write(work) == ["Asia/Tokyo", "Europe/Berlin", None]

    @pytest.mark.parametrize("other", [agent("t1"), agent("t2", report_keyid="key-t1")])
    async def test_an_id_and_a_report_key_belong_to_one_agent(self, database: SqlDatabase, other: AgentRecord) -> None:
        await database.write(lambda unit: enrol(unit, "t1"))
        with pytest.raises(RefusedError) as caught:
            await database.write(lambda unit: unit.identities.add_agent(other, hardware="hw-1", labels={}))
        assert caught.value.kind == "agent-exists"

    async def test_api_tokens_are_found_by_hash(self, database: SqlDatabase) -> None:
        token = ApiToken(id="p-1", secret_sha256="h" * 64, name="ci", role=Role.OPERATOR, expires_at=5.0)
        await database.write(lambda unit: unit.identities.add_api_token(token))
        assert await database.read(lambda unit: unit.identities.api_token("h" * 64)) == token
        assert await database.read(lambda unit: unit.identities.api_token("g" * 64)) is None

    async def test_api_tokens_change_and_end(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> list[int]:
            for number, (name, until) in enumerate((("anna", None), ("anna", 5.0), ("anna", 9.0), ("bob", None))):
                unit.identities.add_api_token(
                    ApiToken(
                        id=f"p-{number}",
                        secret_sha256=f"{number}" * 64,
                        name=name,
                        role=Role.VIEWER,
                        expires_at=until,
                    )
                )
            tokens = unit.identities
            return [
                tokens.change_api_tokens("anna", Role.ADMIN),
                tokens.change_api_tokens("nobody", Role.ADMIN),
                tokens.expire_api_tokens(7.0, token="p-2"),
                tokens.expire_api_tokens(7.0, token="p-2"),
                tokens.expire_api_tokens(8.0, name="anna"),
            ]

        assert await database.write(work) == [3, 0, 1, 0, 1]
        found = await database.read(lambda unit: unit.identities.api_tokens())
        assert [(one.id, one.role, one.expires_at) for one in found] == [
            ("p-0", Role.ADMIN, 8.0),
            ("p-1", Role.ADMIN, 5.0),
            ("p-2", Role.ADMIN, 7.0),
            ("p-3", Role.VIEWER, None),
        ]

    async def test_api_tokens_in_pages(self, database: SqlDatabase) -> None:
        whose = (("anna", "p-9"), ("anna", "p-a"), ("bob", "p-1"), ("Zoe", "p-5"))

        def work(unit: Unit) -> None:
            for number, (name, token) in enumerate(reversed(whose)):
                unit.identities.add_api_token(
                    ApiToken(id=token, secret_sha256=f"{number}" * 64, name=name, role=Role.VIEWER)
                )

        await database.write(work)

        async def page(after: tuple[str, str] | None, limit: int | None) -> list[tuple[str, str]]:
            found = await database.read(lambda unit: unit.identities.api_tokens(after=after, limit=limit))
            return [(one.name, one.id) for one in found]

        in_order = sorted(whose)
        assert await page(None, None) == in_order
        assert await page(None, 2) == in_order[:2]
        assert await page(in_order[1], 2) == in_order[2:]
        assert await page(in_order[3], 2) == []

    async def test_a_known_device_is_found_by_key_and_serial_and_bound_once(self, database: SqlDatabase) -> None:
        by_key = KnownDevice(id="k-1", key_sha256="a" * 64, labels={"site": "x"}, created_at=5.0, created_by="anna")
        by_serial = KnownDevice(id="k-2", serial="SN-1", created_at=6.0)

        def work(unit: Unit) -> None:
            enrol(unit, "t1")
            unit.identities.add_known_device(by_key)
            unit.identities.add_known_device(by_serial)
            unit.identities.bind_known_device("k-2", agent="t1", key_sha256="b" * 64)
            unit.identities.allow_known_device("k-2")

        await database.write(work)
        bound = dataclasses.replace(by_serial, agent="t1", key_sha256="b" * 64, again=True)
        find = lambda **words: database.read(lambda unit: unit.identities.known_device(**words))  # noqa: E731
        assert await find(key_sha256="a" * 64, serial="SN-1") == by_key
        assert await find(key_sha256="c" * 64, serial="SN-1") == bound
        assert await find(key_sha256="b" * 64) == bound
        assert await find() is None
        assert await database.read(lambda unit: unit.identities.known_devices(after="k-1", limit=5)) == [bound]
        with pytest.raises(Exception, match="known_device"):
            await database.write(lambda unit: unit.identities.add_known_device(dataclasses.replace(by_key, id="k-3")))
        await database.write(lambda unit: unit.identities.remove_known_device("k-1"))
        assert await database.read(lambda unit: unit.identities.known_device_by_id("k-1")) is None


class TestReleases:
    async def test_the_same_release_may_come_twice_and_another_may_not(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: unit.releases.add(RELEASE))
        await database.write(lambda unit: unit.releases.set_state("lamp", "2", ReleaseState.SUSPECT))
        await database.write(lambda unit: unit.releases.add(dataclasses.replace(RELEASE, published_at=9.0)))
        stored = await database.read(lambda unit: unit.releases.get("lamp", "2"))
        assert stored == dataclasses.replace(RELEASE, state=ReleaseState.SUSPECT)
        with pytest.raises(RefusedError) as caught:
            await database.write(lambda unit: unit.releases.add(dataclasses.replace(RELEASE, counter=3)))
        assert caught.value.kind == "release-exists"
        assert await database.read(lambda unit: unit.releases.list()) == [stored]

    async def test_releases_in_pages_and_the_deltas_to_some(self, database: SqlDatabase) -> None:
        versions = [("lamp", "1"), ("lamp", "10"), ("lamp", "2"), ("pump", "1")]

        def work(unit: Unit) -> None:
            for number, (product, version) in enumerate(reversed(versions)):
                unit.releases.add(dataclasses.replace(RELEASE, product=product, version=version, counter=number))
            for target in "abc":
                file = StoredFile(path=f"deltas/{target}.otd", length=1, sha256=target * 64)
                unit.releases.add_delta(
                    DeltaRecord(file=file, source_sha256="0" * 64, source_length=1, target_sha256=target * 64)
                )

        await database.write(work)

        async def page(after: tuple[str, str] | None, limit: int) -> list[tuple[str, str]]:
            found = await database.read(lambda unit: unit.releases.page(after, limit))
            return [(one.product, one.version) for one in found]

        assert await page(None, 9) == versions
        assert await page(None, 3) == versions[:3]
        assert await page(versions[1], 2) == versions[2:]
        assert await page(versions[3], 2) == []
        some = await database.read(lambda unit: unit.releases.deltas_to(["c" * 64, "a" * 64, "f" * 64]))
        assert [one.target_sha256[0] for one in some] == ["a", "c"]
        assert await database.read(lambda unit: unit.releases.deltas_to([])) == []

    async def test_what_a_release_requires_is_kept_and_learnt_later(self, database: SqlDatabase) -> None:
        asks = Requirements(min_counter=1, through=(1, 3))
        await database.write(lambda unit: unit.releases.add(RELEASE))
        await database.write(lambda unit: unit.releases.add(dataclasses.replace(RELEASE, requires=asks)))
        assert await database.read(lambda unit: unit.releases.get("lamp", "2")) == dataclasses.replace(
            RELEASE, requires=asks
        )
        await database.write(lambda unit: unit.releases.add(RELEASE))
        with pytest.raises(RefusedError):
            await database.write(lambda unit: unit.releases.add(dataclasses.replace(RELEASE, requires=Requirements())))
        await database.write(lambda unit: unit.releases.set_requirements("lamp", "2", Requirements()))
        stored = await database.read(lambda unit: unit.releases.get("lamp", "2"))
        assert stored == dataclasses.replace(RELEASE, requires=Requirements())

    async def test_the_memory_of_a_delta_is_kept(self, database: SqlDatabase) -> None:
        file = StoredFile(path="deltas/a-b.otd", length=3, sha256="d" * 64)
        delta = DeltaRecord(
            file=file, source_sha256="a" * 64, source_length=7, target_sha256="b" * 64, memory_bytes=1 << 20
        )
        await database.write(lambda unit: unit.releases.add_delta(delta))
        assert await database.read(lambda unit: unit.releases.deltas()) == [delta]

    async def test_an_encrypted_release_keeps_its_key_apart(self, database: SqlDatabase) -> None:
        file = StoredFile(path="releases/lamp/2/image.enc", length=99, sha256="c" * 64)
        encrypted = EncryptedImage(file=file, salt="d" * 64, key_check="e" * 64)
        release = dataclasses.replace(RELEASE, images=(dataclasses.replace(RELEASE.images[0], encrypted=encrypted),))
        await database.write(lambda unit: unit.releases.add(release, content_key=b"\0wrapped"))
        assert await database.read(lambda unit: unit.releases.get("lamp", "2")) == release
        assert await database.read(lambda unit: unit.releases.content_key("lamp", "2")) == b"\0wrapped"
        assert await database.read(lambda unit: unit.releases.content_key("lamp", "3")) is None
        with pytest.raises(RefusedError) as caught:
            await database.write(lambda unit: unit.releases.add(RELEASE))
        assert caught.value.kind == "release-exists"

    async def test_a_delta_goes_one_way(self, database: SqlDatabase) -> None:
        file = StoredFile(path="deltas/a-b.otd", length=3, sha256="d" * 64)
        delta = DeltaRecord(file=file, source_sha256="a" * 64, source_length=7, target_sha256="b" * 64)
        await database.write(lambda unit: unit.releases.add_delta(delta))
        await database.write(lambda unit: unit.releases.add_delta(delta))
        assert await database.read(lambda unit: unit.releases.delta("a" * 64, "b" * 64)) == delta
        assert await database.read(lambda unit: unit.releases.delta("b" * 64, "a" * 64)) is None
        assert await database.read(lambda unit: unit.releases.deltas()) == [delta]
        await database.write(lambda unit: unit.releases.add_delta(dataclasses.replace(delta, salt="5" * 64)))
        assert await database.read(lambda unit: unit.releases.deltas()) == [dataclasses.replace(delta, salt="5" * 64)]

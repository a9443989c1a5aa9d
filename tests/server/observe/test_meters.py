"""What Prometheus is told: counted from the trail, set by looking, and written down in its own format."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from firmware.errors import RefusedError, UnavailableError
from server.errors import StoreError
from server.observe.following import TrailFollower
from server.observe.measured import MeasuredDatabase
from server.observe.measured_shelf import MeasuredShelf
from server.observe.meters import Meters
from server.observe.watching import Watching
from server.planner.decision import Decision, Put
from server.planner.slices import Footprint
from server.ports import Role, Unit
from server.shelves.files import FileShelf
from server.storage.database import SqlDatabase
from tests.contract.storage.rows import RELEASE, plan
from tests.people_side import PeopleSide, people

__all__ = ["people"]
ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy" / "prometheus" / "otaria.rules.yml"
REFERENCE = ROOT / "docs" / "reference" / "metrics.md"


def values(meters: Meters) -> dict[tuple[str, ...], float]:
    """Every sample, by name and the values of its labels."""
    families = text_string_to_metric_families(meters.text().decode())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def watching(people: PeopleSide, meters: Meters, tmp_path: Path, connected: bool = True) -> Watching:
    return Watching(
        people.database,
        meters,
        people.keeper,
        clock=people.clock,
        identity=tmp_path / "identity",
        revocation_lists=tmp_path / "identity" / "fleet-crl.pem",
        expiries=lambda: {"timestamp": 5000.0},
        connected=lambda: connected,
        store_reached=lambda: connected,
    )


def test_a_shelfs_errors_are_counted_by_kind_and_its_work_is_timed(tmp_path: Path) -> None:
    class Broken(FileShelf):
        def read(self, sha256: str, offset: int, size: int) -> bytes:
            raise StoreError("store-busy", "Not now.")

    meters, ticks = Meters(), iter(range(100))
    shelf = MeasuredShelf(Broken(tmp_path), meters, counted=lambda: float(next(ticks)))
    (tmp_path / "staged").write_bytes(b"x")
    shelf.put(tmp_path / "staged", "ab" * 32)
    assert shelf.length("ab" * 32) == 1
    assert shelf.file("ab" * 32) is not None
    for _ in range(2):
        with pytest.raises(StoreError):
            shelf.read("ab" * 32, 0, 1)
    found = values(meters)
    assert found["otaria_artifact_store_errors_total", "store-busy"] == 2
    assert found["otaria_artifact_store_seconds_count", "read"] == 2
    assert found["otaria_artifact_store_seconds_sum", "put"] == 1


async def test_what_was_before_is_not_counted_and_what_comes_is_counted_once(people: PeopleSide) -> None:
    meters = Meters()
    follower = TrailFollower(people.database, meters)
    await people.database.write(lambda unit: add(unit, "verified", "gw-1"))
    await follower.follow()
    await people.database.write(lambda unit: [add(unit, kind, "gw-2") for kind in ("verified", "fell-back", "word")])
    for _ in range(2):
        await follower.follow()
    found = values(meters)
    assert found["otaria_target_outcomes_total", "verified"] == 1
    assert found["otaria_target_outcomes_total", "fell-back"] == 1
    assert found["otaria_target_outcomes_total", "missing"] == 0
    assert found["otaria_audit_records_total", "word"] == 1
    assert ("otaria_target_outcomes_total", "word") not in found


async def test_how_long_things_took_is_counted_from_where_they_began(tmp_path: Path) -> None:
    database, meters = SqlDatabase.open(f"sqlite:///{tmp_path / 'a.db'}"), Meters()
    follower = TrailFollower(database, meters)

    def work(unit: Unit) -> None:
        plan(unit)
        unit.releases.add(dataclasses.replace(RELEASE, published_at=1_000.0))
        unit.inbox.add_ask("t1", "h", {}, 2_100.0)
        held = unit.campaigns.load(Footprint(campaign="spring", target="t1"))
        assert held.assignment
        rows = (replace(held.cohorts[0], opened_at=2_000.0), replace(held.assignment, permitted_at=2_102.0))
        unit.campaigns.commit(Decision(changes=tuple(Put(row=row) for row in rows)))

    await follower.follow()
    await database.write(work)
    for kind, at in (("permit-granted", 2_102.0), ("fell-back", 2_400.0), ("verified", 3_000.0), ("verified", 500.0)):
        await database.write(
            lambda unit, kind=kind, at=at: unit.audit.add(at=at, kind=kind, text="", campaign="spring", target="t1")  # type: ignore[misc]
        )
    await follower.follow()
    found = values(meters)
    for name, seconds in (("permit", 2), ("rollback", 298), ("deployment", 1_000), ("remediation", 2_000)):
        assert (found[f"otaria_{name}_seconds_sum",], found[f"otaria_{name}_seconds_count",]) == (seconds, 1)
    await database.close()


async def test_the_gauges_are_what_the_server_is(people: PeopleSide, tmp_path: Path) -> None:
    meters = Meters()
    look = watching(people, meters, tmp_path)
    await people.database.write(lambda unit: unit.fleet.set_presence("gw-1", online=True, at=1.0))
    await people.database.write(lambda unit: unit.outbox.add("a/topic", b"x"))
    await look.look()
    people.clock.at += 7.0
    await look.look()
    found = values(meters)
    assert found["otaria_leader",] == found["otaria_broker_connected",] == found["otaria_artifact_store_reached",] == 1
    assert (found["otaria_targets", "online"], found["otaria_targets", "offline"]) == (1, 5)
    assert (found["otaria_outbox_messages",], found["otaria_outbox_age_seconds",]) == (1, 7)
    assert found["otaria_catalogue_role_expiry_timestamp_seconds", "timestamp"] == 5000
    assert found["otaria_certificate_expiry_timestamp_seconds", "fleet-ca"] > people.clock.now() + 19 * 365 * 86400
    assert abs(found["otaria_revocation_list_timestamp_seconds",] - people.clock.now()) < 60
    assert found["otaria_campaigns", "running"] == 0
    assert found["otaria_audit_unsigned_records",] > 0
    assert found["otaria_watched_timestamp_seconds",] == people.clock.now()
    await people.keeper.sign()
    people.clock.at += 61
    await people.database.write(lambda unit: unit.outbox.done([one.id for one in unit.outbox.pending(9)]))
    (tmp_path / "identity" / "fleet-crl.pem").write_bytes(b"damaged")
    await look.look()
    found = values(meters)
    assert found["otaria_outbox_age_seconds",] == 0
    assert found["otaria_audit_checkpoint_timestamp_seconds",] == people.clock.now() - 61
    assert found["otaria_revocation_list_timestamp_seconds",] == 0


async def test_errors_of_the_storage_are_counted_and_those_of_its_callers_not(tmp_path: Path) -> None:
    meters, inner = Meters(), SqlDatabase.open(f"sqlite:///{tmp_path / 'a.db'}")
    ticks = iter(range(100))
    database = MeasuredDatabase(inner, meters, counted=lambda: float(next(ticks)))

    def raising(error: Exception) -> object:
        def work(unit: Unit) -> None:
            raise error

        return work

    for error in (UnavailableError("storage-fault", "the disk is full"), RefusedError("bad-token", "no")):
        with pytest.raises(type(error)):
            await database.write(raising(error))  # type: ignore[arg-type]
    await database.read(lambda unit: None)
    found = values(meters)
    assert found["otaria_storage_errors_total", "storage-fault"] == 1
    assert ("otaria_storage_errors_total", "bad-token") not in found
    assert found["otaria_transaction_seconds_count", "write"] == 2
    assert found["otaria_transaction_seconds_sum", "read"] == 1
    await database.close()


async def test_who_may_look_may_scrape_and_nobody_else(people: PeopleSide) -> None:
    address = "/api/v1/metrics"
    headers = {"Authorization": f"Bearer {people.secret[Role.VIEWER]}"}
    assert (await people.client.get(address)).status == 401
    answer = await people.client.get(address, headers=headers)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name for family in text_string_to_metric_families(await answer.text())}
    assert {"otaria_leader", "otaria_target_outcomes", "process_cpu_seconds"} <= families


def samples() -> dict[str, set[str]]:
    """Names of samples and their labels, as Prometheus will see them."""
    meters = Meters()
    meters.count_messages(lambda: 1, lambda: {"clone": 1}, lambda: 0)
    labels = {one._name: set(one._labelnames) for one in vars(meters).values() if hasattr(one, "_labelnames")}
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}
    found: dict[str, set[str]] = {}
    for family in meters.registry.collect():
        shown = {name for one in family.samples for name in one.labels}
        for suffix in suffixes.get(family.type, ("",)):
            found[family.name + suffix] = labels.get(family.name, set()) | shown
    return found


def test_names_are_ours_in_base_units_and_without_labels_that_grow() -> None:
    for name, labels in samples().items():
        assert name.startswith(("otaria_", "process_")), name
        assert not labels & {"target", "device", "agent", "campaign", "change_id", "address"}, name
        assert not re.search(r"_(ms|milliseconds|minutes|hours|kb|percent)(_|$)", name), name


def rules() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule.get("alert") or rule["record"], rule["expr"]
            if "alert" in rule:
                assert rule["labels"]["severity"] in ("page", "ticket")
                assert rule["annotations"].keys() == {"summary", "action"}


def asked_of(expression: str, known: Mapping[str, set[str]]) -> set[str]:
    """The metrics that an expression asks for. Each must be known, with the labels that it is chosen by."""
    asked = re.findall(r"\b((?:otaria|process)_\w+)(?:\{([^}]*)\})?", expression)
    for metric, matchers in asked:
        assert metric in known, f"{metric}: {expression}"
        for label in re.findall(r"(\w+)[=!]", matchers):
            assert label in known[metric], f"{metric} has no label {label}: {expression}"
    return {metric for metric, _ in asked}


def test_each_rule_asks_for_what_there_is() -> None:
    known = samples()
    for name, expression in rules():
        assert asked_of(expression, known), name
    assert len(dict(rules())) >= 15


def test_the_reference_names_every_metric_and_no_other() -> None:
    told = set(re.findall(r"^\| `(otaria\w*)", REFERENCE.read_text(), re.MULTILINE))
    bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in samples() if name.startswith("otaria")}
    assert told == bases


def add(unit: Unit, kind: str, target: str) -> None:
    unit.audit.add(at=10.0, kind=kind, text="", target=target)

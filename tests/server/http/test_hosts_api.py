"""What hosts have, over REST and for the commands: by source package, by what is pending, and merged for a group."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from firmware.errors import RefusedError
from firmware.host_packages import Drifted, HostFacts, Offered, PackageHere, host_state, pack, telling
from firmware.patch_set import parse_patch_set
from firmware.protocol.packages import PackagesPart
from server.campaigns.packages import take_packages
from server.cli.patch_sets import from_group, review_of
from server.ports import Role, Unit
from tests.people_side import PeopleSide
from tests.server.cli.test_rest_commands import Shell

API = "/api/v1"


def here(name: str, version: str, source: str = "") -> PackageHere:
    return PackageHere(name=name, arch="amd64", version=version, source=source)


def offered(name: str, version: str, *, security: bool = True, sha: str = "a") -> Offered:
    return Offered(
        name=name, arch="amd64", before="1", version=version, is_security=security, length=10, sha256=sha * 64
    )


LOWER, HIGHER = offered("libssl3", "3.0.9-1"), offered("libssl3", "3.0.10-1")


async def tell(people: PeopleSide, target: str, *packages: PackageHere, pending: tuple[Offered, ...] = ()) -> None:
    facts = HostFacts(
        kernel="6.1", drift=[Drifted(name="nano", arch="amd64", was="1", now="2")] if target == "gw-0" else []
    )
    state = host_state(facts, packages, pending)
    part = PackagesPart(base="", now=state.digest, data=pack(telling(None, state)))

    def take(unit: Unit) -> None:
        take_packages(unit, target, part, 5.0)

    await people.database.write(take)


@pytest.fixture
async def hosts(people: PeopleSide) -> PeopleSide:
    await tell(
        people, "gw-0", here("libssl3", "3.0.8-1", "openssl"), pending=(HIGHER, offered("nano", "7", security=False))
    )
    await tell(people, "gw-1", here("libssl3", "3.0.8-1", "openssl"), pending=(LOWER,))
    await tell(people, "gw-2", here("libssl3", "3.0.10-1", "openssl"), pending=())
    await tell(people, "gw-3", here("zlib1g", "1"), pending=(HIGHER,))
    return people


async def get(people: PeopleSide, path: str, **query: str) -> tuple[int, Any]:
    answer = await people.client.get(f"{API}{path}", params=query, headers=people.headers(Role.VIEWER))
    return answer.status, await answer.json()


async def found(people: PeopleSide, **query: str) -> list[str]:
    status, page = await get(people, "/hosts", **query)
    assert status == 200
    return [one["target"] for one in page["hosts"]]


async def test_hosts_are_found_by_a_source_package_below_a_version(hosts: PeopleSide) -> None:
    assert await found(hosts) == ["gw-0", "gw-1", "gw-2", "gw-3"]
    assert await found(hosts, source="openssl") == ["gw-0", "gw-1", "gw-2"]
    assert await found(hosts, source="openssl", below="3.0.10-1") == ["gw-0", "gw-1"], "3.0.8 is below 3.0.10"
    assert await found(hosts, source="openssl", below="3.0.8-1") == []
    assert await found(hosts, source="libssl3") == [], "that is a binary package"
    assert await found(hosts, security="true") == ["gw-0", "gw-1", "gw-3"]


async def test_hosts_come_in_pages(hosts: PeopleSide) -> None:
    names, cursor = [], ""
    for _ in range(10):
        _, page = await get(hosts, "/hosts", limit="1", source="openssl", cursor=cursor)
        names += [one["target"] for one in page["hosts"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert names == ["gw-0", "gw-1", "gw-2"]


async def test_a_version_without_a_package_is_refused(hosts: PeopleSide) -> None:
    status, problem = await get(hosts, "/hosts", below="1")
    assert (status, problem["type"]) == (400, "bad-query")


async def test_a_host_shows_what_it_has_with_security_first(hosts: PeopleSide) -> None:
    status, shown = await get(hosts, "/fleet/gw-0/packages")
    assert status == 200
    assert [one["name"] for one in shown["pending"]] == ["libssl3", "nano"]
    assert [one["name"] for one in shown["packages"]] == ["libssl3"]
    assert shown["facts"]["drift"] == [{"name": "nano", "arch": "amd64", "was": "1", "now": "2"}]
    assert (await get(hosts, "/fleet/gw-5/packages"))[0] == 404


async def test_a_group_gets_the_highest_version_and_is_told_who_is_offered_less(hosts: PeopleSide) -> None:
    status, group = await get(hosts, "/hosts-pending", query="id:gw-*", security="true")
    assert status == 200, group
    assert (group["hosts"], group["silent"]) == (4, 2)
    (one,) = group["pending"]
    assert (one["offer"]["version"], one["hosts"], one["others"]) == ("3.0.10-1", 2, {"3.0.9-1": 1})
    (package,) = from_group(group)
    assert (package.name, package.version, package.sha256) == ("libssl3", "3.0.10-1", "a" * 64)
    assert review_of(group)[1] == ("  libssl3:amd64 1 to 3.0.10-1 security, 2 hosts; 1 are offered only 3.0.9-1")
    _, everything = await get(hosts, "/hosts-pending", query="id:gw-0")
    assert [one["offer"]["name"] for one in everything["pending"]] == ["libssl3", "nano"]


async def test_a_group_where_nothing_waits_or_that_is_of_two_minds_is_refused(hosts: PeopleSide) -> None:
    status, problem = await get(hosts, "/hosts-pending", query="id:gw-2")
    assert (status, problem["type"]) == (422, "nothing-pending")
    await tell(hosts, "gw-4", pending=(replace(HIGHER, sha256="b" * 64),))
    status, problem = await get(hosts, "/hosts-pending", query="id:gw-*")
    assert (status, problem["type"]) == (422, "plan-differs")


async def test_a_package_whose_file_nobody_told_is_refused(hosts: PeopleSide) -> None:
    await tell(hosts, "gw-4", pending=(replace(HIGHER, sha256="", length=0),))
    _, group = await get(hosts, "/hosts-pending", query="id:gw-4")
    with pytest.raises(RefusedError) as refused:
        from_group(group)
    assert refused.value.kind == "package-missing"
    _, group = await get(hosts, "/hosts-pending", query="id:gw-*", security="true")
    assert [one.sha256 for one in from_group(group)] == ["a" * 64], "another host told it"


async def test_a_targets_page_shows_packages_with_security_marked_and_what_changed(hosts: PeopleSide) -> None:
    await tell(hosts, "gw-1", here("libssl3", "3.0.8-1", "<b>"), pending=(LOWER,))
    await hosts.sign_in(Role.VIEWER)
    page = " ".join((await (await hosts.client.get("/fleet/gw-0")).text()).split())
    pending = page.index("<td>libssl3:amd64</td><td>1</td><td>3.0.10-1</td>")
    assert 'class="flag">security<' in page[pending : page.index("<td>nano:amd64</td><td>1</td><td>7</td>")]
    assert "Changed since the committed set" in page
    assert "<td>nano:amd64</td><td>1</td><td>2</td>" in page
    assert "1 packages installed" in page
    assert "&lt;b&gt;" in await (await hosts.client.get("/fleet/gw-1")).text()
    assert "Packages" not in await (await hosts.client.get("/fleet/gw-5")).text()


async def test_commands_show_hosts_and_write_the_set_with_its_review(
    hosts: PeopleSide, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    otaria, out = Shell(hosts, tmp_path, capsys), tmp_path / "set.json"
    for which, said in (
        ((), "1 packages, 2 pending, 1 of them for security"),
        (("--pending",), "nano"),
        (("--security",), "3.0.10-1"),
        (("--changed",), "nano"),
    ):
        code, shown, _ = await otaria("fleet", "packages", "gw-0", *which)
        assert (code, said in shown) == (0, True), shown
    assert [one["name"] for one in (await otaria.json("fleet", "packages", "gw-0", "--security"))["security"]] == [
        "libssl3"
    ]
    assert (await otaria("fleet", "packages", "gw-2", "--security"))[1] == "Nothing is pending.\n"
    code, shown, _ = await otaria("fleet", "hosts", "--package", "openssl", "--below", "3.0.10-1")
    assert (code, "gw-1" in shown, "gw-2" in shown) == (0, True, False)
    assert (await otaria("fleet", "hosts", "--below", "1"))[0] == 2
    code, shown, _ = await otaria("release", "patch-set", "--group", "id:gw-*", "--security-only", "-o", str(out))
    assert code == 0
    assert "4 hosts of gateway-r1 told what is pending; 2 told none and are not counted:" in shown
    assert [one.spec for one in parse_patch_set(out.read_bytes()).packages] == ["libssl3:amd64=3.0.10-1"]
    assert (await otaria("release", "patch-set", "--group", "id:gw-2", "-o", str(out)))[0] == 1
    assert (await otaria("release", "patch-set", "-o", str(out)))[0] == 2

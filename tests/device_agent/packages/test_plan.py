"""Texts of dpkg and apt, and what is made of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.packages.apt_index import parse_offers, with_files
from device_agent.packages.host import KernelState, parse_needrestart
from device_agent.packages.plan import (
    Change,
    Installed,
    Wanted,
    changes_to,
    held_among,
    parse_installed,
    parse_simulation,
    plan_hash,
    unlike,
    unsound,
    world_hash,
)
from firmware.errors import RefusedError

SIMULATED = """\
Reading package lists...
Building dependency tree...
The following packages will be upgraded:
  libssl3 openssl
Inst libssl3:i386 [3.0.15-1~deb12u1] (3.0.17-1~deb12u2 Debian-Security:12/oldstable-security [i386]) []
Inst openssl [3.0.15-1~deb12u1] (3.0.17-1~deb12u2 Debian:12.12/oldstable, Debian-Security:12/oldstable-security [amd64])
Inst linux-image-6.1.0-40-amd64 (6.1.153-1 Debian-Security:12/oldstable-security [amd64])
Remv exim4 [4.96-15]
Purg gone [1.0]
Conf openssl (3.0.17-1~deb12u2 Debian:12.12/oldstable [amd64])
"""
UPGRADABLE = """\

WARNING: apt does not have a stable CLI interface. Use with caution in scripts.

Listing...
libssl3/oldstable-security 3.0.17-1~deb12u2 i386 [upgradable from: 3.0.15-1~deb12u1]
openssl/oldstable,oldstable-security 3.0.17-1~deb12u2 amd64 [upgradable from: 3.0.15-1~deb12u1]
gone/now 1.0 amd64 [residual-config]
"""


def test_a_simulation_is_read() -> None:
    assert parse_simulation(SIMULATED, "amd64") == (
        Change(name="exim4", arch="amd64", before="4.96-15"),
        Change(name="gone", arch="amd64", before="1.0"),
        Change(name="libssl3", arch="i386", before="3.0.15-1~deb12u1", after="3.0.17-1~deb12u2"),
        Change(name="linux-image-6.1.0-40-amd64", arch="amd64", after="6.1.153-1"),
        Change(name="openssl", arch="amd64", before="3.0.15-1~deb12u1", after="3.0.17-1~deb12u2"),
    )


@pytest.mark.parametrize("line", ["Inst", "Inst alpha", "Inst alpha [1.0]", "Remv alpha (2.0 x [all])", "Inst a (1 x)"])
def test_a_change_that_cannot_be_read_is_refused(line: str) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_simulation(f"{line}\n", "amd64")
    assert caught.value.kind == "plan-differs"


@given(st.text(alphabet="InstRemvPug [](): \n12ab"))
def test_no_text_makes_the_reader_of_simulations_fail_otherwise(text: str) -> None:
    kinds = set()
    try:
        parse_simulation(text, "amd64")
    except RefusedError as error:
        kinds.add(error.kind)
    assert kinds <= {"plan-differs"}


ROWS = (
    "alpha\tall\t1.0\tii \talpha-src\t1.0\n"
    "libc6\ti386\t2.36\thi \tglibc\t2.36\n"
    "left\tamd64\t1.0\trc \tleft\t1.0\n"
    "half\tamd64\t2.0\tiF \thalf\t2.0\n"
    "bad\tamd64\t2.0\tiiR\tbad\t2.0\n"
)


def test_the_database_is_read_by_key() -> None:
    found = parse_installed(ROWS, "amd64")
    assert set(found) == {"alpha", "libc6:i386", "left", "half", "bad"}
    assert (found["libc6:i386"].is_held, found["alpha"].is_held) == (True, False)
    assert (found["left"].is_there, found["left"].is_sound) == (False, True)
    assert unsound(found) == ["bad (iiR)", "half (iF)"]
    assert held_among([Change(name="libc6", arch="i386"), Change(name="alpha", arch="all")], found, "amd64") == [
        "libc6:i386"
    ]
    for broken in ("alpha\tall\t1.0\n", "\tall\t1.0\tii \ta\t1\n", "alpha\tall\t1.0\ti\ta\t1\n"):
        with pytest.raises(RefusedError):
            parse_installed(broken, "amd64")


def test_what_is_due_is_what_is_not_there_soundly() -> None:
    found = parse_installed(ROWS, "amd64")
    wanted = [
        Wanted(name="alpha", arch="all", version="1.0"),
        Wanted(name="half", arch="amd64", version="2.0"),
        Wanted(name="left", arch="amd64", version="1.0"),
        Wanted(name="new", arch="all", version="1.0"),
        Wanted(name="gone", arch="all", version=None),
    ]
    assert [(one.name, one.before, one.after) for one in changes_to(wanted, found, "amd64")] == [
        ("half", "2.0", "2.0"),
        ("left", None, "1.0"),
        ("new", None, "1.0"),
    ]


A, B = Change(name="a", arch="all", before="1", after="2"), Change(name="b", arch="all", before="1", after="2")


@pytest.mark.parametrize(
    ("planned", "says"),
    [
        ([A, B], None),
        ([A], "leaves out b:all 1 to 2"),
        ([A, B, Change(name="c", arch="all", before="1")], "also wants c:all 1 to absent"),
        ([A, Change(name="b", arch="all", before="1", after="3")], "b:all 1 to 3 instead of 2"),
    ],
)
def test_a_plan_is_compared_with_what_was_signed(planned: list[Change], says: str | None) -> None:
    found = unlike(planned, [A, B], "amd64")
    assert found is None if says is None else says in (found or "")


def test_what_only_has_to_be_configured_need_not_be_planned() -> None:
    assert unlike([], [Change(name="a", arch="all", before="2", after="2")], "amd64") is None


def test_the_world_is_everything_else() -> None:
    base = {"a": Installed(name="a", arch="all", version="1"), "b": Installed(name="b", arch="all", version="1")}
    changed = base | {"a": Installed(name="a", arch="all", version="2")}
    assert world_hash(base, ["a"]) == world_hash(changed, ["a"])
    assert world_hash(base, ["b"]) != world_hash(changed, ["b"])
    assert world_hash(base, []) != world_hash({"a": base["a"]}, [])
    assert plan_hash([A, B]) == plan_hash([B, A]) != plan_hash([A])


def test_offers_have_their_files_and_whether_they_are_for_security() -> None:
    shown = (
        "Package: openssl\nVersion: 3.0.17-1~deb12u2\nArchitecture: amd64\nSource: openssl-src (3.0.17)\nSize: 77\n"
        f"SHA256: {'c' * 64}\nDescription: long\n with Size: 9 in it\n\n"
    )
    offers = with_files(parse_offers(UPGRADABLE), shown)
    assert [(one.name, one.is_security, one.length) for one in offers] == [("libssl3", True, 0), ("openssl", True, 77)]
    assert (offers[1].source, offers[1].source_version, offers[1].sha256) == ("openssl-src", "3.0.17", "c" * 64)
    assert [one.before for one in offers] == ["3.0.15-1~deb12u1"] * 2
    assert [one.arch for one in offers] == ["i386", "amd64"]
    assert not parse_offers("a/stable 2 all [upgradable from: 1]\n")[0].is_security


def test_needrestart_is_read() -> None:
    text = "NEEDRESTART-VER: 3.6\nNEEDRESTART-KSTA: 3\n"
    text += "".join(f"NEEDRESTART-SVC: {name}\n" for name in ("ssh.service", "--all", "a b"))
    found = parse_needrestart(text)
    assert (found.kernel, found.services) == (KernelState.NEWER_RELEASE, ("ssh.service",))

"""Versions sort as dpkg sorts them."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware.deb_version import version_order

RISING = [
    "0~~",
    "0~",
    "0",
    "0a",
    "0+",
    "1.0~rc1-1",
    "1.0-1~bpo",
    "1.0-1",
    "1.0-1+b1",
    "1.0-1.1",
    "1.2",
    "1.10",
    "1:0.1",
    "2:0",
]


def test_versions_rise_as_debian_says() -> None:
    falling = list(reversed(RISING))
    assert sorted(falling, key=version_order) == RISING


@pytest.mark.parametrize(("one", "other"), [("1.0", "1.00"), ("0:1", "1"), ("1-0", "1"), ("1.", "1.0"), ("a", "a0")])
def test_versions_that_only_look_different_are_equal(one: str, other: str) -> None:
    assert version_order(one) == version_order(other)


@settings(max_examples=30)
@given(*[st.from_regex(r"\A(?:[0-2]:)?[0-9][0-9a-c.+~]{0,6}(?:-[0-9a-c.+~]{1,3})?\Z")] * 2)
def test_dpkg_says_the_same(one: str, other: str) -> None:
    is_less = subprocess.run(["dpkg", "--compare-versions", one, "lt", other], check=False).returncode == 0
    assert (version_order(one) < version_order(other)) is is_less

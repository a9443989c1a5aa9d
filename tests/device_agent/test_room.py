"""The device says how much room it has, coarsely and as a label."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from device_agent.room import LABEL, with_room


@pytest.mark.parametrize(
    ("free", "told"),
    [(123_456_789, "120000000"), (999, "990"), (99, "99"), (7, "7"), (0, "0"), (1 << 40, "1000000000000")],
)
def test_it_is_rounded_down_to_two_digits(monkeypatch: pytest.MonkeyPatch, free: int, told: str) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _folder: SimpleNamespace(f_bavail=free, f_frsize=1))
    assert with_room({"site": "b"}, [Path("/a")]) == {"site": "b", LABEL: told}


def test_the_fullest_folder_counts_and_one_that_is_not_there_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"/a": 500, "/b": 300}

    def look(folder: Path) -> SimpleNamespace:
        if str(folder) not in free:
            raise FileNotFoundError(folder)
        return SimpleNamespace(f_bavail=free[str(folder)], f_frsize=2)

    monkeypatch.setattr(os, "statvfs", look)
    assert with_room({}, [Path("/a"), Path("/b"), Path("/none")]) == {LABEL: "600"}
    assert with_room({}, [Path("/none")]) == {}


def test_what_the_operator_says_stays_and_a_full_set_of_labels_too(tmp_path: Path) -> None:
    assert with_room({LABEL: "5"}, [tmp_path]) == {LABEL: "5"}
    full = {f"label{number}": "x" for number in range(64)}
    assert with_room(full, [tmp_path]) == full
    assert int(with_room({}, [tmp_path])[LABEL]) > 0

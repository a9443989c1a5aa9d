"""Plots: every point is drawn, what is written in them is escaped, and nothing makes nothing."""

import re

from simulator.soak.report import HEIGHT, WIDTH, plot


def test_a_line_goes_from_the_left_to_the_right_and_its_highest_point_is_highest() -> None:
    drawn = plot("Devices", [("up", [(0.0, 0.0), (5.0, 10.0), (10.0, 5.0)])])
    [points] = re.findall(r"points='([^']*)'", drawn)
    places = [tuple(map(float, point.split(","))) for point in points.split()]
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
    assert min(places, key=lambda place: place[1]) == places[1]


def test_words_are_escaped() -> None:
    drawn = plot("a<b", [("c<d", [(0.0, 1.0), (1.0, 1.0)])], [(0.5, "e<f")])
    assert "a&lt;b" in drawn
    assert "e&lt;f" in drawn
    assert not re.search(r"[ace]<[bdf]", drawn)


def test_nothing_makes_nothing() -> None:
    assert plot("Empty", [("none", [])]) == ""

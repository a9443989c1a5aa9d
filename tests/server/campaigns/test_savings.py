"""What deltas save, in bytes that add up and promise nothing that isn't made."""

from dataclasses import replace

import pytest

from server.campaigns.savings import Savings, savings
from server.ports import DeltaNeed, Leg

LEG = Leg(
    campaign="spring",
    rank=0,
    source_sha256="1" * 64,
    source_version="1",
    target_sha256="2" * 64,
    target_version="2",
    image_bytes=1000,
    targets=10,
    capable=10,
    need=DeltaNeed.MADE,
    delta_bytes=100,
)


def test_only_deltas_that_are_there_save_anything() -> None:
    wanted = replace(LEG, need=DeltaNeed.WANTED, delta_bytes=None)
    refused = replace(LEG, need=DeltaNeed.REFUSED, delta_bytes=None)
    sums = savings([LEG, wanted, refused], min_saving=0.2)
    assert sums == Savings(made=1, refused=1, wanted=1, full_bytes=30_000, expected_bytes=21_000)
    assert sums.needed == 3


@pytest.mark.parametrize(
    ("leg", "expected"),
    [
        (replace(LEG, capable=4), 4 * 100 + 6 * 1000),
        (replace(LEG, capable=0, need=DeltaNeed.LEFT_OUT), 10_000),
        (replace(LEG, delta_bytes=801), 10_000),
        (replace(LEG, delta_bytes=800), 8_000),
    ],
)
def test_who_can_not_take_a_delta_and_what_saves_too_little_count_in_full(leg: Leg, expected: int) -> None:
    assert savings([leg], min_saving=0.2).expected_bytes == expected

"""What came out of a rehearsal, in sentences."""

from msgspec.structs import replace

from simulator.rehearsal_words import lines
from tests.rehearsed import FOUND


def test_what_is_told_of_those_who_were_played_says_so() -> None:
    whole, sampled = ("\n".join(lines(one, 0.0)) for one in (FOUND, replace(FOUND, targets=20_000)))
    for text, said in ((whole, ""), (sampled, ", of those that were played")):
        assert (
            f"Missed most often over all its days{said}, in so many of the runs (50 are named at most): gw-3 35%."
            in text
        )
        assert f"Downloads most, without deltas{said}: berlin 67.1 MB, no site 2.0 kB." in text
        assert "Not reached before the order expires: 1 (even chance)." in text


def test_a_defect_of_one_hardware_is_told_as_one() -> None:
    assert "a share of the devices harms" in "\n".join(lines(FOUND, 0.0))
    assert "a share of the devices of gw-r2 harms" in "\n".join(lines(replace(FOUND, defect_on="gw-r2"), 0.0))

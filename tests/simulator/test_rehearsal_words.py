"""What came out of a rehearsal, in sentences."""

from msgspec.structs import replace

from server.campaigns.rehearsal import Band
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


def test_who_is_permitted_and_how_often_a_good_release_is_stopped_is_told_if_it_is_known() -> None:
    plain = "\n".join(lines(FOUND, 0.0))
    assert "had a permit by then" not in plain
    assert "has no defect" not in plain
    blast = replace(FOUND.blast[0], admitted=Band(p10=3.0, p50=20.0, p90=70.0))
    told = "\n".join(lines(replace(FOUND, blast=(blast,), stopped=0.25), 0.0))
    assert "5% bad: 1 (even chance), 3 (nine of ten), of 20 and 70 that had a permit by then; stopped in 50%" in told
    assert "In 25% of them a gate stops the release, though it has no defect; what follows is of the others." in told


def test_a_defect_of_one_hardware_is_told_as_one() -> None:
    assert "a share of the devices harms" in "\n".join(lines(FOUND, 0.0))
    assert "a share of the devices of gw-r2 harms" in "\n".join(lines(replace(FOUND, defect_on="gw-r2"), 0.0))

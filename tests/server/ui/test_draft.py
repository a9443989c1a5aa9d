"""The form in which a campaign is written: it stands for a file, and what is refused is said beside its field."""

import pytest

from server.campaigns.strategy_file import CampaignFileError, parse_campaign
from server.planner.policy import READY_MADE, parse_strategy
from server.planner.strategy import GatePolicy
from server.ui.draft import OWN, Filled, choices, file_of, first, gate_of, read, refusals, steps_of
from tests.people_side import release

GOOD = Filled(name="spring", release="gateway 1.1.0", strategy="standard")
STRATEGY = "name: mine\ncohorts:\n  - {name: canary, count: 1}\n  - {name: rest}\n"


def filled(**fields: str) -> Filled:
    return read({"name": "spring", "release": "gateway 1.1.0", "strategy": "standard", **fields})


def wrong(form: Filled) -> dict[str, str]:
    """What reading the form's file refuses, by field."""
    before = 0
    try:
        text, before = file_of(form)
        parse_campaign(text)
    except CampaignFileError as error:
        return refusals(error, form, before)
    return {}


def test_the_fields_are_a_campaign_file() -> None:
    form = filled(labels="site=rome, ring=early site=Ulm", start="2026-12-01T02:00")
    spec = parse_campaign(file_of(form)[0])
    assert (spec.name, spec.product, spec.version, spec.strategy.name) == ("spring", "gateway", "1.1.0", "standard")
    assert spec.selection.labels == {"site": ("rome", "Ulm"), "ring": "early"}
    assert spec.start_at == 1_796_090_400.0


@pytest.mark.parametrize("version", ["1.0", "1", "1e3", "2026-01-01", "0x10"])
def test_a_version_that_looks_like_something_else_stays_a_text(version: str) -> None:
    assert parse_campaign(file_of(filled(release=f"gateway {version}"))[0]).version == version


def test_a_strategy_of_ones_own_goes_into_the_file() -> None:
    text, before = file_of(filled(strategy=OWN, own=STRATEGY.replace("\n", "\r\n")))
    assert parse_campaign(text).strategy == parse_strategy(
        {"name": "mine", "cohorts": [{"name": "canary", "count": 1}, {"name": "rest"}]}
    )
    assert text.splitlines()[before] == "  name: mine"


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"name": "Not a name"}, "name", "`name` must be lower-case letters"),
        ({"labels": "rome"}, "labels", "`rome` is no label; write name=value"),
        ({"labels": "a=" + "x" * 200}, "labels", "The label a must be text"),
        ({"start": "tomorrow"}, "start", "`start_at` must be a moment"),
        ({"release": "gateway"}, "release", "`version` must be a version"),
        ({"strategy": "reckless"}, "strategy", "must be one of"),
        ({"strategy": OWN, "own": STRATEGY + "paitence: 1h\n"}, "own", "Line 5: "),
        ({"strategy": OWN, "own": STRATEGY + "healthy: soon\n"}, "own", "Line 5: healthy must be"),
        ({"strategy": OWN, "own": "name: mine\ncohorts: [\n"}, "own", "not valid YAML"),
        (
            {"strategy": OWN, "own": STRATEGY + "name: twice\n"},
            "own",
            "Line 5: This is not valid YAML: name is given twice",
        ),
        ({"mode": "file", "file": "name: spring\nname: twice\n"}, "file", "line 2: name is given twice"),
        ({"mode": "file", "file": ""}, "file", "A campaign file is a mapping"),
    ],
)
def test_what_is_refused_is_said_beside_its_field(fields: dict[str, str], field: str, says: str) -> None:
    found = wrong(filled(**fields))
    assert list(found) == [field]
    assert says in found[field]


def test_an_untouched_form_offers_the_newest_release_and_a_strategy_for_so_many() -> None:
    releases = [release("1.0.0", 1), release("1.1.0", 2)]
    form = first(releases, 10, Filled())
    assert (form.release, form.name, form.strategy) == ("gateway 1.1.0", "gateway-1-1-0", "bench")
    assert first(releases, 11, Filled(release="gateway 1.0.0")).name == "gateway-1-0-0"
    assert first(releases, 11, Filled()).strategy == "standard"
    assert wrong(first(releases, 11, Filled())) == {}
    assert first([], 0, Filled()).release == ""


def test_the_strategy_offered_to_begin_with_is_one_that_is_taken() -> None:
    begun = first([release("1.0.0", 1)], 3, Filled())
    assert wrong(read({**vars(begun), "strategy": OWN})) == {}


def test_every_ready_made_strategy_is_offered_with_its_steps() -> None:
    offered = {one.name: one.steps for one in choices()}
    assert set(offered) == set(READY_MADE)
    assert offered["bench"] == (
        "canary 1 → rest; at most 1 down at once; verified after 10 s of health; ends when a gate fails"
    )
    assert "at most 1 down at once in a site" in offered["cautious"]
    assert "1 of a pair always up" in steps_of(parse_strategy("redundant-pairs"))


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        (GatePolicy(kind="all", min_verified=3), "every target that tries verifies, 3 targets at least"),
        (GatePolicy(kind="share", max_failure_rate=0.02), "at most 2 % of it fail"),
        (GatePolicy(kind="rate", max_failure_rate=0.01), "proven below 1 % (95 % sure)"),
        (GatePolicy(kind="metrics", effect=0.5), "worse than its control’s by 0.5 standard deviations"),
        (GatePolicy(kind="sli", name="errors", limit=2, for_s=600), "errors stays at most 2 for 10 min"),
        (GatePolicy(kind="external", name="qa"), "somebody says that qa passes"),
    ],
)
def test_a_gate_says_what_it_asks(gate: GatePolicy, says: str) -> None:
    assert says in gate_of(gate)

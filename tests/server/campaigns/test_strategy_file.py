"""Campaign files: what is accepted, and that everything else is refused with the place and what to write there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError
from server.campaigns.strategy_file import parse_campaign
from server.planner.selection import Match, Selection

GOOD = 'name: spring\nproduct: lamp\nversion: "2.1"\nstrategy: standard\n'


def test_a_small_file() -> None:
    spec = parse_campaign(GOOD)
    assert (spec.name, spec.product, spec.version, spec.strategy.name) == ("spring", "lamp", "2.1", "standard")
    assert spec.selection == Selection()


def test_a_selection_of_several_values_with_exceptions() -> None:
    text = """selection:
  labels: {site: [berlin, ulm], ring: prod}
  hardware: [r1, "r 2"]
  versions: ["1.0"]
  exclude:
    - {targets: [d-1]}
    - {labels: {tier: "1"}, versions: ["1.0-rc1"]}
  membership: live
"""
    found = parse_campaign(GOOD + text).selection
    assert found == Selection(
        labels={"site": ("berlin", "ulm"), "ring": "prod"},
        hardware=("r1", "r 2"),
        versions=("1.0",),
        exclude=(Match(targets=("d-1",)), Match(labels={"tier": "1"}, versions=("1.0-rc1",))),
        membership="live",
    )
    said = "ring=prod, site=berlin|ulm, hardware=r1|r 2, versions=1.0"
    assert found.text == f"{said}, not (targets=d-1), not (tier=1, versions=1.0-rc1), live"


def test_a_live_selection_takes_no_rules_of_approval_that_its_growth_would_pass_by() -> None:
    live = "selection: {membership: live}\n"
    ruled = GOOD.replace("standard", "{extends: standard, approvals: {need: 1, rules: [{need: 2, targets: 100}]}}")
    with pytest.raises(RefusedError, match="Line 5: A live selection grows") as caught:
        parse_campaign(ruled + live)
    assert caught.value.kind == "bad-campaign"
    parse_campaign(ruled)
    parse_campaign(GOOD.replace("standard", "{extends: standard, approvals: {need: 1}}") + live)


def test_a_selection_and_a_strategy_of_its_own() -> None:
    spec = parse_campaign(
        GOOD.replace("standard", "{extends: standard, healthy: 10s}") + "selection: {labels: {site: berlin}}\n"
    )
    assert spec.selection == Selection(labels={"site": "berlin"})
    assert spec.strategy.healthy_s == 10


def test_json_is_yaml_too() -> None:
    assert parse_campaign('{"name":"a","product":"b","version":"1","strategy":"standard"}').name == "a"


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("", "bad-campaign", "mapping"),
        ("- 1\n", "bad-campaign", "mapping"),
        (GOOD + "name: other\n", "bad-campaign", "line 5: name is given twice"),
        (GOOD + "selection: {labels: {a: x, a: y}}\n", "bad-campaign", "line 5: a is given twice"),
        (GOOD + "colour: red\n", "bad-campaign", "no key colour"),
        (GOOD.replace('"2.1"', "2.1"), "bad-campaign", "`version`"),
        (GOOD.replace("spring", "Spring!"), "bad-campaign", "`name`"),
        (GOOD.replace("spring", "../x"), "bad-campaign", "`name`"),
        (GOOD.replace("product: lamp\n", ""), "bad-campaign", "`product`"),
        (GOOD.replace("strategy: standard\n", ""), "bad-campaign", "strategy"),
        (GOOD.replace("standard", "standrad"), "bad-strategy", "standard"),
        (GOOD + "selection: berlin\n", "bad-campaign", "`selection`"),
        (GOOD + "selection: {site: berlin}\n", "bad-campaign", "`selection`"),
        (GOOD + "selection: {labels: [a]}\n", "bad-campaign", "`selection.labels`"),
        (GOOD + "selection: {labels: {site: 5}}\n", "bad-campaign", "label site"),
        (GOOD + "selection: {labels: {5: a}}\n", "bad-campaign", "line 5"),
        (GOOD + "selection: {labels: {site: []}}\n", "bad-campaign", "label site"),
        (GOOD + "selection: {labels: {site: [ulm, 5]}}\n", "bad-campaign", "label site"),
        (GOOD + "selection: {hardware: r1}\n", "bad-campaign", "`selection.hardware` must be a list"),
        (GOOD + "selection: {versions: [1.0]}\n", "bad-campaign", "`selection.versions[0]`"),
        (GOOD + "selection: {targets: []}\n", "bad-campaign", "`selection.targets` must be a list of 1 to 1000"),
        (GOOD + "selection: {exclude: {labels: {}}}\n", "bad-campaign", "`selection.exclude` must be a list"),
        (GOOD + "selection: {exclude: [{}]}\n", "bad-campaign", "`selection.exclude[0]` fits every target"),
        (GOOD + "selection: {exclude: [{membership: live}]}\n", "bad-campaign", "`selection.exclude[0]` must be"),
        (GOOD + "selection: {membership: melting}\n", "bad-campaign", "one of frozen, live"),
        ("a: [", "bad-campaign", "line 1"),
        ("a: 1\n\tb: 2", "bad-campaign", "line 2"),
        ("? [a]\n: b\n", "bad-campaign", "plain text"),
        ("!!python/object/apply:os.system [x]", "bad-campaign", "line 1"),
        ("<<: {name: a}\n", "bad-campaign", "plain text"),
        ("a: &a [1]\nb: [" + "*a," * 100 + "]", "bad-campaign", "aliases"),
        ("a: " + "[" * 5000, "bad-campaign", "YAML"),
        ("a: " + "9" * 5000, "bad-campaign", "YAML"),
        ("a: \x00", "bad-campaign", "YAML"),
        ("a: " + "x" * 300_000, "bad-campaign", "KiB"),
    ],
)
def test_everything_else_is_refused_in_words(text: str, kind: str, says: str) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_campaign(text)
    assert caught.value.kind == kind
    assert says in caught.value.text


@given(st.text(max_size=200) | st.text(alphabet="abc:{}[]&*!|>-? \n\"'#%@", max_size=80).map(lambda tail: GOOD + tail))
def test_any_text_is_a_campaign_or_a_typed_refusal(text: str) -> None:
    try:
        spec = parse_campaign(text)
    except RefusedError:
        return
    assert (spec.name, spec.product) == ("spring", "lamp")


STRATEGY = """name: spring
product: lamp
version: "2.1"
selection:
  labels:
    site: berlin
strategy:
  extends: standard
  cohorts:
    - name: canary
      count: 3
      gate: {kind: all,
             min_verified: 9}
    - {name: rest, gates: [{kind: all}, {kind: rote}]}
  windows:
    - {days: [fri], start: "22:00", end: "25:00"}
  takes: 3 weeks
"""
VERIFIED = "min_verified: 9"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + "selection:\n  labels:\n    site: berlin\n    rack.row: 5\n", "Line 8: The label rack.row"),
        (STRATEGY, "Line 13: cohorts[0].gate.min_verified"),
        (STRATEGY.replace(VERIFIED, "x: 1"), "Line 13: cohorts[0].gate.x is no key"),
        (STRATEGY.replace(VERIFIED, ""), "Line 14: cohorts[1].gates[1].kind"),
        (STRATEGY.replace(VERIFIED, "").replace("rote", "all"), "Line 16: windows[0].end"),
        ("name: spring\nproduct: lamp\nversion: 2.1\nstrategy: x\n", "Line 3: `version`"),
        (GOOD.replace("standard", "standrad"), "Line 4: strategy must be one of"),
        (GOOD.replace("standard", "{healthy: 1d}"), "Line 4: cohorts must be given"),
        (GOOD.replace("standard", "{extends: cautious, order_ttl: 1h}"), "Line 4: order_ttl must be at least"),
        (GOOD + "start_at: 2026-12-01\n", "Line 5: `start_at`"),
    ],
)
def test_a_refusal_names_the_line(text: str, says: str) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_campaign(text)
    assert caught.value.text.startswith(says)

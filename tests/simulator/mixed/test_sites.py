"""The plan of the mixed demo's sites: who is enrolled when, with which labels, behind whom."""

from simulator.mixed.sites import everybody, labels_of, layers, pairs, paths


def test_whoever_is_above_is_enrolled_before() -> None:
    found = layers(everybody(("ulm",)))
    assert [[one.role for one in layer] for layer in found] == [
        ["core", "core"],
        ["edge"],
        ["web", "web", "meter", "meter"],
    ]


def test_labels_name_pair_and_gateways_by_their_ids() -> None:
    by_name = {one.name: one for one in everybody(("ulm",))}
    targets = {"ulm-core-a": "d-1", "ulm-core-b": "d-2", "ulm-edge": "d-3"}
    edge = labels_of(by_name["ulm-edge"], targets)
    assert (edge["gateway"], edge["gateway.2"], "pair" in edge) == ("d-1", "d-2", False)
    web = labels_of(by_name["ulm-web-1"], targets)
    assert (web["gateway"], web["pair"], web["site"]) == ("d-3", "ulm-web", "ulm")


def test_a_path_has_everybody_above_however_far() -> None:
    assert paths(everybody(("ulm",)))["ulm-meter-2"] == {"ulm-edge", "ulm-core-a", "ulm-core-b"}


def test_pairs_are_of_one_site() -> None:
    found = pairs(everybody())
    assert found["wien-core"] == ("wien-core-a", "wien-core-b")
    assert len(found) == 6

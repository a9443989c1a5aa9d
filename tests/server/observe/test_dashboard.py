"""The dashboard for Grafana shows what the server exports, all of it, and asks for nothing else."""

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.server.observe.test_meters import ROOT, asked_of, rules, samples

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "otaria.json").read_text())
WIDTH = 24
NOT_DRAWN = {"otaria_info"}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def panels() -> list[dict[str, Any]]:
    return [one for one in DASHBOARD["panels"] if one["type"] != "row"]


def queries() -> Iterator[tuple[str, dict[str, Any]]]:
    """Everything that is asked of Prometheus, with where it is shown."""
    for panel in panels():
        for one in panel["targets"]:
            yield panel["title"], one
    for one in DASHBOARD["annotations"]["list"]:
        yield one["name"], one


def test_every_query_asks_for_metrics_and_labels_that_there_are() -> None:
    known, recorded = samples(), {name for name, _ in rules() if ":" in name}
    for title, query in queries():
        expression = query["expr"]
        own = set(re.findall(r"\botaria:\w+(?::\w+)?", expression))
        assert own <= recorded, title
        asked = asked_of(expression, known)
        assert asked or own, title
        wanted = set().union(*(re.split(r",\s*", found) for found in re.findall(r"\bby \(([^)]*)\)", expression)))
        wanted |= set(re.findall(r"\{\{(\w+)\}\}", query.get("legendFormat", "")))
        assert wanted <= set().union({"le", "instance"}, *(known[name] for name in asked)), title


def test_every_metric_of_ours_is_drawn() -> None:
    def base(name: str) -> str:
        return re.sub(r"_(bucket|sum|count)$", "", name)

    drawn = {base(name) for _, query in queries() for name in asked_of(query["expr"], samples())}
    ours = {base(name) for name in samples() if name.startswith("otaria_")}
    assert ours - drawn == NOT_DRAWN


def test_every_query_goes_to_the_data_source_that_is_chosen() -> None:
    (variable,) = DASHBOARD["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")
    assert all(query["datasource"] == SOURCE for _, query in queries())
    assert all(panel["datasource"] == SOURCE for panel in panels())


def test_panels_say_what_they_show_and_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= WIDTH, panel["title"]
        cells = {(place["x"] + across, place["y"] + down) for across in range(place["w"]) for down in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in panels():
        assert panel["title"], panel["id"]
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert len({one["refId"] for one in panel["targets"]}) == len(panel["targets"]), panel["title"]

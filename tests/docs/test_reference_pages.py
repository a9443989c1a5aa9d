"""The reference says what the code says: nothing is missing from it, and nothing stands in it that isn't there."""

import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from device_agent.boot.settings import Grub, Simulated, SystemdBootSettings, UBoot
from device_agent.config import Config, Intervals
from device_agent.packages.settings import HostTarget
from firmware.protocol.words import ReasonKind
from server.config import DEFAULTS
from server.http.accounts import AccountRoutes
from server.http.audit import AuditRoutes
from server.http.authorities import CaRoutes
from server.http.bundles import BundleRoutes
from server.http.campaigns import CampaignRoutes
from server.http.devices import DeviceRoutes
from server.http.fleet import FleetRoutes
from server.http.forecasts import ForecastRoutes
from server.http.hosts import HostRoutes
from server.http.known_devices import KnownDeviceRoutes
from server.http.logs import LogRoutes
from server.http.metrics import MetricsRoutes
from server.http.openapi import DescriptionRoutes
from server.http.people import SystemRoutes
from server.http.rehearsals import RehearsalRoutes
from server.http.releases import ReleaseRoutes
from server.http.revisions import RevisionRoutes
from server.http.signed import SignedRoutes
from server.http.uploads import UploadRoutes
from server.http.webhooks import WebhookRoutes
from server.http.words import WordRoutes
from server.planner import ask_events, plain, policy, times
from server.webhooks.events import TYPES

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
GENERATED = ("cli.md", "strategy.md", "wire.md")


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_reference", REFERENCE / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def section(page: str, title: str) -> str:
    """The text below a heading, up to the next one of its level or above."""
    text = (REFERENCE / page).read_text()
    level = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert level, f"{page} has no heading {title}"
    rest = text[level.end() :]
    end = re.search(rf"^#{{1,{len(level[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def first_cells(text: str) -> list[str]:
    """What stands in code in the first cell of each table row."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def strategy_keys() -> dict[str, tuple[str, ...]]:
    """The keys each table of strategy.md must have, learnt by asking the parser with a key that it can't know."""
    cohort = {"name": "all"}
    asked = {
        "The strategy": {"name": "s", "cohorts": [cohort], "?": 1},
        "A cohort": {"name": "s", "cohorts": [{**cohort, "?": 1}]},
        "A gate": {"name": "s", "cohorts": [{**cohort, "gate": {"?": 1}}]},
        **{
            f"A gate of kind {kind}": _gate_asked(cohort, kind)
            for kind in ("share", "rate", "metrics", "sli", "external")
        },
        "A budget": {"name": "s", "cohorts": [cohort], "budgets": [{"?": 1}]},
        "Approvals": {"name": "s", "cohorts": [cohort], "approvals": {"?": 1}},
        "Unattended use": {"name": "s", "cohorts": [cohort], "unattended": {"?": 1}},
        "A predecessor (`after`)": {"name": "s", "cohorts": [cohort], "after": [{"?": 1}]},
        "A prerequisite (`requires`)": {"name": "s", "cohorts": [cohort], "requires": [{"?": 1}]},
        "A rate": {"name": "s", "cohorts": [cohort], "rates": [{"?": 1}]},
    }
    return {title: known_keys(value) for title, value in asked.items()}


GATE_KEYS = {"kind", "accept_insufficient", "min_verified"}
"""What stands in the table of all gates."""


def _gate_asked(cohort: dict[str, str], kind: str) -> dict[str, Any]:
    return {"name": "s", "cohorts": [{**cohort, "gate": {"kind": kind, "?": 1}}]}


def known_keys(strategy: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(plain.RefusedError) as refused:
        policy.parse_strategy(strategy)
    return tuple(refused.value.text.partition("known are ")[2].rstrip(".").split(", "))


def routes() -> Iterator[tuple[str, str]]:
    """`METHOD /path` below /api/v1 and the need of each."""
    for kind in (
        SystemRoutes,
        FleetRoutes,
        HostRoutes,
        KnownDeviceRoutes,
        AccountRoutes,
        AuditRoutes,
        CaRoutes,
        CampaignRoutes,
        LogRoutes,
        SignedRoutes,
        MetricsRoutes,
        ReleaseRoutes,
        BundleRoutes,
        RevisionRoutes,
        WordRoutes,
        RehearsalRoutes,
        UploadRoutes,
        WebhookRoutes,
        ForecastRoutes,
        DescriptionRoutes,
    ):
        for route in unfurnished(kind).routes():
            yield f"{route.method} {route.path}", route.need.value


def unfurnished(kind: type[Any]) -> Any:
    """One of these without any of its parts: good for asking what it would answer, and for nothing else."""
    return kind(**dict.fromkeys(inspect.signature(kind).parameters))


def device_routes() -> set[str]:
    app = unfurnished(DeviceRoutes).app()
    return {f"{route.method} {route.resource.canonical}" for route in app.router.routes() if route.method != "HEAD"}  # type: ignore[union-attr]


@pytest.mark.parametrize("page", GENERATED)
def test_a_generated_page_is_what_the_code_says(page: str) -> None:
    module = generator()
    assert REFERENCE / page in module.pages()
    text = (REFERENCE / page).read_text()
    assert text == module.filled(text), f"docs/reference/{page} is stale: run `python docs/reference/generate.py`"


def test_every_setting_of_the_server_is_in_the_reference_and_none_else() -> None:
    settings = {f"{name}.{key}" for name, keys in DEFAULTS.items() for key in keys}
    rows = first_cells(section("config.md", "otaria.toml"))
    assert set(rows) == settings
    assert len(rows) == len(settings)


def test_the_defaults_of_the_server_are_in_the_reference() -> None:
    text = section("config.md", "otaria.toml")
    shown = dict(re.findall(r"^\| `([^`]+)` \| `([^`]*)` \|", text, re.MULTILINE))
    given = {f"{name}.{key}": value for name, keys in DEFAULTS.items() for key, value in keys.items()}
    simple = {name: value for name, value in given.items() if value is not None and name != "http.max_artifact_bytes"}
    assert shown == {name: msgspec.json.encode(value).decode() for name, value in simple.items()}


def test_every_setting_of_the_agent_is_in_the_reference_with_its_default() -> None:
    text = section("config.md", "agent.toml")
    rows = dict(re.findall(r"^\| `([^`]+)` \| `?([^|`]*?)`? \|", text, re.MULTILINE))
    settings = {f"intervals.{name}": f"{getattr(Intervals(), name):g}" for name in Intervals.__struct_fields__}
    for name in Config.__struct_fields__:
        value = getattr(Config(), name)
        if isinstance(value, Intervals | Simulated):
            continue
        if isinstance(value, msgspec.Struct):
            settings |= {f"{name}.{inner}": _quoted(getattr(value, inner)) for inner in value.__struct_fields__}
        else:
            settings[name] = _quoted(value)
    settings["boot.kind"] = "simulated"
    for kind in (Simulated, Grub, UBoot, SystemdBootSettings):
        fields = msgspec.to_builtins(kind())
        settings |= {f"boot.{name}": _shown(fields[name]) for name in kind.__struct_fields__}
    fields = msgspec.to_builtins(HostTarget())
    settings |= {f"target.{name}": _shown(fields[name]) for name in HostTarget.__struct_fields__}
    settings["target.kind"] = "device"
    assert rows == settings


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else msgspec.json.encode(value).decode().strip('"')


def _quoted(value: object) -> str:
    return msgspec.json.encode(value).decode() if isinstance(value, str) else _shown(value)


@pytest.mark.parametrize(
    "title",
    [
        "The strategy",
        "Unattended use",
        "Approvals",
        "A cohort",
        "A gate",
        "A budget",
        "A predecessor (`after`)",
        "A prerequisite (`requires`)",
        "A rate",
    ],
)
def test_every_key_of_a_strategy_is_in_the_reference_and_none_else(title: str) -> None:
    keys = strategy_keys()[title]
    assert len(keys) > 1
    if title.startswith("A gate of kind"):
        keys = tuple(key for key in keys if key not in GATE_KEYS)
    text = section("strategy.md", title).partition("\n### ")[0]
    assert sorted(first_cells(text)) == sorted(keys)


def test_the_defaults_of_a_strategy_are_in_the_reference() -> None:
    text = section("strategy.md", "The strategy").partition("\n### ")[0]
    parsed = policy.parse_strategy({"name": "s", "cohorts": [{"name": "all"}]})
    shown = re.findall(r"^\| `(\w+)` \| `(\d+[smhd])` \|", text, re.MULTILINE)
    assert len(shown) == 9
    for name, value in shown:
        holder = parsed.calendar if name in times.KEYS else parsed
        assert getattr(holder, f"{name}_s") == plain.duration(value, name)


def test_every_route_is_in_the_reference_with_its_need_and_none_else() -> None:
    text = section("api.md", "For people and scripts")
    rows = re.findall(r"^\| `([A-Z]+ /[^`]*)` \| (\w+) \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(routes())


def test_every_route_for_devices_is_in_the_reference_and_none_else() -> None:
    assert set(first_cells(section("api.md", "For devices"))) == device_routes()


def test_every_type_of_event_is_in_the_reference_with_its_kind_and_none_else() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", section("events.md", "Types"), re.MULTILINE)
    assert sorted(rows) == sorted((kind, line) for line, kind in TYPES.items())


def test_every_reason_kind_is_in_the_reference_and_none_else() -> None:
    rows = first_cells(section("reasons.md", "Why a device ended, refused or waits"))
    assert sorted(rows) == sorted(ReasonKind)


def test_every_kind_of_wait_is_in_the_reference() -> None:
    rows = first_cells(section("reasons.md", "Why the planner makes a target wait"))
    source = Path(ask_events.__file__).read_text()
    kinds = set(re.findall(r'_wait\(\s*ledger,\s*"([a-z-]+)"', source)) | set(re.findall(r'kind="([a-z-]+)"', source))
    assert len(kinds) > 5
    assert kinds <= set(rows)

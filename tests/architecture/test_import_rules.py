"""Rules that import-linter can't say: third parties by folder, and the agent's one door to the disk."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOMES = {
    "sqlmodel": ("server/storage/",),
    "sqlalchemy": ("server/storage/",),
    "alembic": ("server/storage/",),
    "aiomqtt": ("server/transport/",),
    "amqtt": ("server/transport/",),
    "paho": ("device_agent/transport/", "simulator/hostile.py"),
    "asyncssh": ("device_agent/appliances/ssh_line.py", "simulator/appliances/"),
    "botocore": ("server/shelves/s3_client.py",),
    "boto3": (),
    "bsdiff4": ("firmware/delta/", "bench/"),
    "hdiffpatch": ("firmware/delta/match.py", "bench/"),
    "numpy": ("firmware/delta/",),
}
WRITES = frozenset(
    {"write_bytes", "write_text", "rename", "touch", "rmtree", "fsync", "pwrite", "ftruncate", "truncate"}
)
DOORS = {
    "device_agent/effects.py": "the door itself",
    "device_agent/data/trees.py": "the door to folders",
    "device_agent/boot/wary.py": "the boot loader's own door",
    "device_agent/slots/files.py": "makes a board at the factory, before there is an agent",
}


def sources(*tops: str) -> list[Path]:
    """All modules below the given top-level packages."""
    found = [path for top in tops for path in sorted((ROOT / top).rglob("*.py"))]
    assert found
    return found


def imports(path: Path) -> set[str]:
    """Top-level names a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize(("package", "homes"), HOMES.items())
def test_a_third_party_stays_at_home(package: str, homes: tuple[str, ...]) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in sources("firmware", "server", "device_agent", "simulator")
        if package in imports(path)
    }
    strangers = {user for user in users if not user.startswith(homes)}
    assert strangers == set()


def test_every_durable_write_of_the_agent_goes_through_effects() -> None:
    guilty: dict[str, list[str]] = {}
    for path in sources("device_agent"):
        calls = [
            f"{node.func.attr} in line {node.lineno}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in WRITES
            and ast.unparse(node.func.value) not in {"self._effects", "effects", "self._trees"}
        ]
        if calls:
            guilty[str(path.relative_to(ROOT))] = calls
    assert {name: calls for name, calls in guilty.items() if name not in DOORS} == {}
    assert "device_agent/effects.py" in guilty, "the search finds nothing, so it proves nothing"

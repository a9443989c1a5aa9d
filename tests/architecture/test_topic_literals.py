"""Topic literals live in one file; everything else asks it."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = ROOT / "firmware" / "protocol" / "topics.py"


def test_only_topics_py_spells_topics() -> None:
    sources = [
        path for top in ("firmware", "server", "device_agent", "simulator") for path in (ROOT / top).rglob("*.py")
    ]
    guilty = [str(path.relative_to(ROOT)) for path in sources if path != HOME and '"otaria/v1' in path.read_text()]
    assert len(sources) > 20
    assert guilty == []

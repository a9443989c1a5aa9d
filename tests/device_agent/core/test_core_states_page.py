"""The agent's table is drawn in the docs as it is."""

from pathlib import Path

from device_agent.core import events as ev
from device_agent.core import states
from firmware.protocol.words import AgentState as Word

DOC = Path(__file__).parents[3] / "docs" / "reference" / "states.md"


def test_the_docs_show_the_agents_table_as_it_is() -> None:
    assert states.diagram() in DOC.read_text(), (
        "docs/reference/states.md is stale; paste device_agent.core.states.diagram()"
    )


def test_the_drawing_shows_every_change_and_what_it_leaves_out_is_what_it_says() -> None:
    drawn = {tuple(line.split(" : ")[0].split(" --> ")) for line in states.diagram().splitlines() if " --> " in line}
    drawn = {(source.strip(), to) for source, to in drawn}
    for (word, event), after in states.TABLE.items():
        if event is ev.OrderArrived:
            held = word in (Word.ACTIVATING, Word.TRIAL)
            assert after == ({word} if held else {word, Word.ORDERED, Word.REFUSED, Word.CANCELLED})
        else:
            assert {(word, to) for to in after - {word}} <= drawn

"""What the command line says of comparisons that wait."""

from server.cli.gates import comparison_lines


def waiting(number: int) -> dict[str, str]:
    return {"target": f"t{number}", "control": f"c{number}", "text": "It waits."}


def test_the_first_are_shown_and_the_others_counted() -> None:
    assert comparison_lines({}) == []
    assert comparison_lines({"comparisons": [waiting(1)]}) == ["t1, not compared with c1 yet: It waits."]
    lines = comparison_lines({"comparisons": [waiting(number) for number in range(5)]})
    assert lines[0] == "t0, not compared with c0 yet: It waits."
    assert lines[3:] == ["… and others likewise: 2 more; --json has them"]
    assert len(comparison_lines({"comparisons": [waiting(number) for number in range(3)]})) == 3

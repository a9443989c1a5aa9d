"""Log lines: the fields are in them, and what a stranger sent cannot make a line of its own."""

import logging

import pytest

from firmware.logs import BURST, WINDOW_S, FieldFormatter, Sparing


def line(message: str = "dropped", **fields: object) -> str:
    record = logging.LogRecord("device_agent.gate", logging.WARNING, __file__, 1, message, None, None)
    vars(record).update(fields)
    return FieldFormatter().format(record)


def test_the_fields_of_a_record_are_in_its_line() -> None:
    assert line(leaf="order", size_bytes=12).endswith(" WARNING device_agent.gate dropped leaf=order size_bytes=12")
    assert line(reason="No trusted key signed this order.").endswith('reason="No trusted key signed this order."')


def test_a_record_without_fields_is_its_message() -> None:
    assert line().endswith(" device_agent.gate dropped")
    assert line(reason_kind=None).endswith(" device_agent.gate dropped")


@pytest.mark.parametrize(
    "hostile", ["a\nERROR forged", "a\rb", "\x1b[2J", "x level=ERROR", '"', "", "\u2028", "a" * 201]
)
def test_what_a_stranger_sent_stays_inside_its_quotes(hostile: str) -> None:
    shown = line(reason=hostile).partition("reason=")[2]
    assert shown[0] == shown[-1] == '"'
    assert shown.isprintable()
    assert shown.isascii()
    assert len(line(reason=hostile).splitlines()) == 1


def test_security_a_flood_of_like_lines_is_cut_and_counted() -> None:
    now = [0.0]
    sparing = Sparing(lambda: now[0])

    def written(template: str) -> logging.LogRecord | None:
        record = logging.LogRecord("device_agent.gate", logging.WARNING, __file__, 1, template, None, None)
        return record if sparing.filter(record) else None

    assert sum(written("message not accepted") is not None for _ in range(1000)) == BURST
    assert written("broker refused the connection") is not None, "another event is not hidden by the flood"
    now[0] = WINDOW_S
    record = written("message not accepted")
    assert record is not None
    assert FieldFormatter().format(record).endswith(f"message not accepted left_out={1000 - BURST}")
    later = written("message not accepted")
    assert later is not None
    assert not hasattr(later, "left_out")

"""What is kept of devices' reports, read beside a running server, for who compares it with what devices say they sent."""

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import func, select

from server.storage.engines import make_engine, parse_url
from server.storage.faults import translated
from server.storage.tables import INBOX

PAGE = 5000


class KeptReport(NamedTuple):
    """A report: its row, who said it, where in which journal, and the sha256 of its words."""

    id: int
    target: str
    journal: str
    seq: int
    hash: str


def kept_reports(url: str, *, after: int = 0) -> Iterator[KeptReport]:
    """All reports behind this row, in the order they were taken in. Raises `UnavailableError` (`storage-fault`)."""
    columns = (INBOX.c.id, INBOX.c.target, INBOX.c.journal, INBOX.c.seq, INBOX.c.hash)
    wanted = select(*columns).where(INBOX.c.kind == "report").order_by(INBOX.c.id).limit(PAGE)
    engine = make_engine(parse_url(url), writer=False, size=1)
    try:
        while True:
            with translated(), engine.connect() as connection:
                rows = [KeptReport(*row) for row in connection.execute(wanted.where(INBOX.c.id > after))]
            yield from rows
            if len(rows) < PAGE:
                return
            after = rows[-1].id
    finally:
        engine.dispose()


def pending_reports(url: str) -> int:
    """How many reports the planner has still to see. Raises `UnavailableError` (`storage-fault`)."""
    wanted = select(func.count()).where(INBOX.c.kind == "report", INBOX.c.pending)
    engine = make_engine(parse_url(url), writer=False, size=1)
    try:
        with translated(), engine.connect() as connection:
            return int(connection.execute(wanted).scalar_one())
    finally:
        engine.dispose()

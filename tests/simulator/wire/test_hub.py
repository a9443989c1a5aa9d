"""The loop of a process, and the site that its devices share: what waits is done aside, and files may come another way."""

import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest

from firmware.errors import UnavailableError
from simulator.exact.catalogue import open_catalogue
from simulator.wire.hub import Loop
from simulator.wire.site import Site


def test_what_is_done_aside_runs_elsewhere_and_its_end_comes_back_to_the_loop() -> None:
    loop, seen = Loop(cast(Site, None), begins=0.0, hasten=1.0), dict[str, int]()
    may_end = threading.Event()

    def work() -> Any:
        may_end.wait(10)
        seen["work"] = threading.get_ident()
        return lambda: seen.update(end=threading.get_ident())

    loop.aside(work)
    loop.once()
    assert seen == {}
    may_end.set()
    until = time.monotonic() + 10
    while "end" not in seen and time.monotonic() < until:
        loop.once()
    assert seen["end"] == threading.get_ident() != seen["work"]
    loop.close()


class Way:
    """Files that are out of reach; `asked` counts who tried."""

    def __init__(self) -> None:
        self.asked = 0

    def metadata(self, name: str, max_bytes: int) -> bytes | None:
        self.asked += 1
        raise UnavailableError("unreachable", "Nobody is there.")

    target = metadata

    def open(self, file: Any, *, offset: int) -> Any:
        self.asked += 1
        raise UnavailableError("unreachable", "Nobody is there.")


def test_a_site_may_fetch_another_way_from_now_on(tmp_path: Path) -> None:
    first, second = Way(), Way()
    repository = open_catalogue(tmp_path, "lamp", now=time.time())
    site = Site(first, repository.root_bytes(), apart_s=0.0)
    for way in (first, second):
        site.fetch_by(way)
        with pytest.raises(UnavailableError):
            site.refresh(time.time())
    assert (first.asked, second.asked) == (1, 1)

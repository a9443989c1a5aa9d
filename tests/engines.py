"""A database is opened a thousand times in a session of tests, and each time SQLAlchemy would put the same statements into words
anew: what it has compiled belongs to an engine. Here all engines of a session that are alike keep it together, as those of a
server that has run for a while have it all. What is executed, and on which database, stays as it was."""

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from unittest import mock

import pytest

ENGINES = "server.storage.engines"
STATEMENTS = 4000
"""How many are kept: all that the suite has."""


@pytest.fixture(scope="session", autouse=True)
def one_memory_for_alike_engines() -> Iterator[None]:
    if ENGINES not in sys.modules:  # none of these tests has a database
        yield
        return
    module: Any = sys.modules[ENGINES]
    with mock.patch.object(module, "create_engine", sharing(module.create_engine)):
        yield


def sharing(create: Callable[..., Any]) -> Callable[..., Any]:
    """`create_engine`, with one dialect and one memory of statements for all engines of a kind."""
    first: dict[object, Any] = {}

    def made(url: Any, **options: Any) -> Any:
        engine = create(url, **options)
        kind = (engine.dialect.name, engine.dialect.driver, options.get("isolation_level"))
        if kind not in first:
            with suppress(Exception):  # where it cannot be reached, whoever asked is to notice
                first[kind] = _introduced(create, url, options)
        if kind in first:
            engine.dialect, engine._compiled_cache = first[kind].dialect, first[kind]._compiled_cache
        return engine

    return made


def _introduced(create: Callable[..., Any], url: Any, options: dict[str, Any]) -> Any:
    """An engine that was connected once, since a dialect asks then what its database can do. SQLite needs no file for that."""
    if url.get_backend_name() == "sqlite":
        url, options = "sqlite://", {key: value for key, value in options.items() if key.startswith("json_")}
    engine = create(url, query_cache_size=STATEMENTS, **options)
    engine.connect().close()
    engine.dispose()
    return engine

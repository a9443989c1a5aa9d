"""Exports to tamper with: real chains and checkpoints, made by the server's own parts on SQLite."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner, Key

from server.audit.export import export
from server.audit.keeper import Keeper
from server.audit.verify import Verdict, verify
from server.ports import Database, Unit
from server.storage import SqlDatabase

NOW = 1_800_000_000.0
SIGNER = CryptoSigner(ec.derive_private_key(7, ec.SECP256R1()))
"""The same in every process of a test."""
KEYS: dict[str, Key] = {SIGNER.public_key.keyid: SIGNER.public_key}


@dataclass
class SetClock:
    """A clock that tests set."""

    at: float = NOW

    def now(self) -> float:
        return self.at


def record(unit: Unit, text: str, actor: str = "planner", at: float = NOW) -> None:
    """One record; the actor says in which partition."""
    unit.audit.add(at=at, kind="mark", text=text, actor=actor, target="gw-1", data={"of": [1, 2.5, None, "ü"]})


async def write(database: Database, *texts: str, actor: str = "planner", at: float = NOW) -> None:
    """Records, in one transaction."""
    await database.write(lambda unit: [record(unit, text, actor, at) for text in texts])


async def lines_of(database: Database) -> list[bytes]:
    """The lines of an export as it is now."""
    return b"".join([piece async for piece in export(database, now=NOW)]).splitlines()


def keeper_of(database: Database, folder: Path, clock: SetClock | None = None) -> Keeper:
    return Keeper(database, clock or SetClock(), SIGNER, folder / "checkpoint.json")


def made(folder: Path) -> list[bytes]:
    """An export: two partitions, nine records, checkpoints after the third, the seventh and the last."""

    async def make() -> list[bytes]:
        database = SqlDatabase.open(f"sqlite:///{folder / 'made.db'}")
        keeper = keeper_of(database, folder)
        await write(database, "p1", "p2", "p3")
        await keeper.sign()
        await write(database, "u1", "u2", actor="ann")
        await write(database, "p4", "p5")
        await keeper.sign()
        await write(database, "u3", actor="bob")
        await write(database, "p6")
        await keeper.sign()
        found = await lines_of(database)
        await database.close()
        return found

    return asyncio.run(make())


def checked(lines: Sequence[bytes], pins: Sequence[bytes] = ()) -> Verdict:
    return verify(lines, KEYS, pins)


def is_record(line: bytes) -> bool:
    return line.startswith(b'{"hash"')


def place(line: bytes) -> tuple[str, int]:
    value = json.loads(line)
    return value["partition"], value["number"]


def changed(line: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The line with something else in it, in the canonical form."""
    value = json.loads(line)
    change(value)
    stated = value.pop("hash")
    body = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return b'{"hash":"%b",%b' % (stated.encode(), body[1:])


def told(verdict: Verdict) -> list[tuple[str, str | None, int | None, int | None]]:
    return [(one.kind, one.partition, one.number, one.upto) for one in verdict.faults]

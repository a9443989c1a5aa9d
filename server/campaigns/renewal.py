"""The catalogue's online roles, signed anew before they expire."""

import asyncio
from collections.abc import Sequence

from firmware.catalogue.publish import Repository
from firmware.protocol.codec import canonical
from firmware.protocol.topics import CATALOGUE
from server.ports import Database


async def renew(database: Database, repository: Repository, now: float) -> Sequence[str]:
    """Sign anew what has used up half of its lifetime, and ring the doorbell if that is anything; the names of those roles.
    Raises typed errors and `OSError`."""
    await database.write(lambda unit: None)  # files know no tokens: at least nothing begins without the lease
    renewed = await asyncio.to_thread(repository.renew, now)
    if renewed:
        ring = canonical({"at": int(now)})
        await database.write(lambda unit: unit.outbox.add(CATALOGUE, ring, retain=True))
    return renewed

"""What a step decides: rows to store or to remove, and commands."""

from msgspec import Struct

from server.planner.commands import Command
from server.planner.rows import Row


class Put(Struct, frozen=True, kw_only=True, gc=False):
    """Store this row; the stored row's version must equal `row.version` (0: must not exist)."""

    row: Row


class Delete(Struct, frozen=True, kw_only=True, gc=False):
    """Remove this row; the stored version must equal its version."""

    row: Row


Change = Put | Delete


class Decision(Struct, frozen=True, kw_only=True, gc=False):
    """All of it is committed in one transaction, or none."""

    changes: tuple[Change, ...] = ()
    commands: tuple[Command, ...] = ()

"""SQL storage: tables, queries and migrations. SQLModel and SQLAlchemy never leave this folder; values of
`server.ports` and `server.planner.rows` do."""

from server.storage.database import SqlDatabase

__all__ = ["SqlDatabase"]

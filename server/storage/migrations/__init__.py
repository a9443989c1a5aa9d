"""Alembic's migrations, run by `server.storage.schema`. A released revision is never edited; add the next one."""

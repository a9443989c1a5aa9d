"""The schema's version: migrations run when the database is opened, under the writer's lock."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from firmware.errors import RefusedError

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(engine: Engine) -> None:
    """Bring the tables to the newest revision, all or nothing; raises `RefusedError` (`database-newer`) for a database
    that a later version of the code has already changed."""
    with engine.begin() as connection:
        config = _config(connection)
        scripts = ScriptDirectory.from_config(config)
        known = {script.revision for script in scripts.walk_revisions()}
        present = set(MigrationContext.configure(connection).get_current_heads())
        if present - known:
            raise RefusedError(
                "database-newer",
                "The database was made by a later version of Otaria; install that version, or restore a backup.",
            )
        if present != set(scripts.get_heads()):
            command.upgrade(config, "head")


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config

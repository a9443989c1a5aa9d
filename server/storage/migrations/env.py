"""How Alembic runs here: on the connection and inside the transaction that `server.storage.schema` opened."""

from alembic import context

from server.storage.tables import Stored

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Stored.metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()

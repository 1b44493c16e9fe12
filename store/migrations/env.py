"""Run by Alembic inside the transaction that open_database holds: either every step is in the schema, or none."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()

"""The tables' history, one Alembic revision a change, and the way to the newest."""

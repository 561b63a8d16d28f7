"""The tables' history, one Alembic revision a change, and the way to the newest."""

HEAD = "0001"
"""The newest revision, told without Alembic."""

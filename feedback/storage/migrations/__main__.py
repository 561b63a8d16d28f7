"""Write the next revision from the difference between the tables and the revisions so far.

Run `python -m feedback.storage.migrations "what changes"` after editing `tables.py`, and read what it wrote.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic import command

from feedback.storage.database import Database
from feedback.storage.migrations.upgrade import configuration


def main(message: str) -> None:
    """Upgrade a fresh database, compare it with the tables, and write the difference down."""
    with TemporaryDirectory() as directory:
        database = Database(f"sqlite:///{Path(directory) / 'fresh.sqlite'}")
        revision = int(database.upgrade()) + 1
        with database.engine.begin() as connection:
            command.revision(configuration(connection), message, autogenerate=True, rev_id=f"{revision:04}")
        database.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])

"""Where the record is kept: tables, database, journal, and the way from one to the other."""

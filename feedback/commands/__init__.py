"""Command groups of the record."""

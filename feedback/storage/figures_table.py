"""The table of what pages show and takes long to find."""

from __future__ import annotations

from sqlalchemy import Text
from sqlmodel import Field, SQLModel


class KeptFigures(SQLModel, table=True):
    """What a page shows and takes long to find, as it was found last: the same for all workers of all gateways."""

    __tablename__ = "kept_figures"

    kind: str = Field(primary_key=True)
    """Of what kind: raters' reliability, an overview …"""
    key: str = Field(primary_key=True)
    """Of what, as JSON."""
    id: str = Field(max_length=36)
    """Another one each time."""
    begun: float
    """When it was begun to be found (Unix seconds)."""
    problem: str | None = Field(default=None, sa_type=Text)
    """Why there is nothing newer."""
    value: str | None = Field(default=None, sa_type=Text)
    """JSON; null where it could not be found yet."""

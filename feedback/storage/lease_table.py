"""The table of leases, part of `tables`."""

from __future__ import annotations

from sqlmodel import Field, SQLModel


class Lease(SQLModel, table=True):
    """Who leads: one loop at a time."""

    __tablename__ = "lease"

    name: str = Field(primary_key=True)
    holder: str
    expires: float

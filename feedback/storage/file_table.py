"""The tables of files that clients keep here; their bytes stand in `files/` in the data directory."""

from __future__ import annotations

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel


class StoredFile(SQLModel, table=True):
    """A file as it was sent, under `files/<id>`. Never changed, only deleted."""

    __tablename__ = "stored_file"

    id: str = Field(primary_key=True, max_length=36)
    name: str
    purpose: str = Field(index=True)
    bytes: int = Field(sa_type=BigInteger)
    hash: str = Field(max_length=64)
    """SHA-256 of its bytes."""
    created: float
    owner: str
    key_id: str | None = Field(default=None, index=True)
    """The key that it was sent with; who has another does not see it. Null: from this machine, without a key."""


class PartedUpload(SQLModel, table=True):
    """A file that is being sent in parts, which stand under `files/.<id>.parts/` until it is whole."""

    __tablename__ = "parted_upload"

    id: str = Field(primary_key=True, max_length=36)
    name: str
    purpose: str
    bytes: int = Field(sa_type=BigInteger)
    """What all parts together must come to."""
    state: str = "pending"
    """`pending`, `completed`, `cancelled`, `expired`."""
    file_id: str | None = Field(default=None, max_length=36)
    created: float
    expires: float = Field(index=True)
    owner: str
    key_id: str | None = None


class UploadPart(SQLModel, table=True):
    """One part, as long as its upload is pending."""

    __tablename__ = "upload_part"

    id: str = Field(primary_key=True, max_length=36)
    upload_id: str = Field(index=True, max_length=36)
    bytes: int = Field(sa_type=BigInteger)

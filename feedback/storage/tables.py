"""The tables. One class a table, in the order of a life: asked, said, selected, learned from, served.

Times are Unix seconds in UTC (the wire shows ISO 8601). Ids are UUIDv7 text unless said otherwise. JSON documents
that came from outside are kept as the text that came, so that nothing is lost in re-encoding.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Index, Text, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from feedback.storage.canary_table import Canary as Canary
from feedback.storage.case_table import Case as Case
from feedback.storage.finding_table import MonthlyFinding as MonthlyFinding
from feedback.storage.import_table import DataImport as DataImport
from feedback.storage.judgement_table import Judgement as Judgement
from feedback.storage.lease_table import Lease as Lease
from feedback.storage.notice_table import Notice as Notice
from feedback.storage.partial import only
from feedback.storage.review_tables import FAILURES_BY_STATE, FAILURES_RESOLVED
from feedback.storage.review_tables import Candidate as Candidate
from feedback.storage.review_tables import RaterHold as RaterHold
from feedback.storage.seals import sealed
from feedback.storage.training_tables import TrainingStep as TrainingStep
from feedback.storage.tuning_table import Tuning as Tuning

_NAMELESS = only('"user" IS NULL AND conversation IS NOT NULL')  # known users' are found by their users


class Inference(SQLModel, table=True):
    """One logged call, also when it failed or the client went away."""

    __tablename__ = "inference"
    __table_args__ = (
        Index("inference_model_version", "model", "version", "id"),
        Index("inference_user", "user", "id"),
        Index("inference_conversation", "conversation", "id", **_NAMELESS),
        Index("inference_listed", "id", sqlite_where=text("listed = 1"), postgresql_where=text("listed")),
    )

    id: str = Field(primary_key=True, max_length=36)
    created: float = Field(index=True)
    model: str
    """Registered name that the client called."""
    version: str
    """Number of the version that answered (`1.2`), or `base`."""
    purpose: str = "production"
    user: str | None = None
    conversation: str | None = None
    key_id: str | None = None
    streamed: bool = False
    status: int
    """HTTP status that the client got; 499 when it went away first."""
    error: str | None = None
    finish_reason: str | None = None
    request: str | None = Field(default=None, sa_type=Text)
    """Request body as JSON text; null with `store: false`."""
    response: str | None = Field(default=None, sa_type=Text)
    """Response as JSON text (a stream's is put together from its events); null with `store: false`."""
    prompt: str | None = Field(default=None, sa_type=Text)
    """Text of the last user message, for search and grouping."""
    output: str | None = Field(default=None, sa_type=Text)
    """Text of the first choice."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    latency_ms: float
    first_token_ms: float | None = None
    metadata_: dict[str, Any] | None = Field(
        default=None, sa_type=JSON, sa_column_kwargs={"name": "metadata"}
    )
    stored: bool = True
    """False with `store: false`: only metadata was kept."""
    pinned: bool = False
    """The client named the version; otherwise the gateway chose it."""
    listed: bool = False
    """Asked with `store: true` and answered: one of OpenAI's stored chat completions."""
    content_hash: str = ""
    """SHA-256 over the row's immutable content (`storage.hashing`); `db verify` recomputes it."""


class Feedback(SQLModel, table=True):
    """One signal about an inference. Append-only: a later one of the same rater takes `current` over."""

    __tablename__ = "feedback"
    __table_args__ = (Index("feedback_inference", "inference_id", "rater"),)

    id: str = Field(primary_key=True, max_length=36)
    inference_id: str = Field(max_length=36)
    """No foreign key: feedback may arrive before its inference does."""
    created: float
    rater: str
    source: str = "user"
    """`user`, or `reviewer` when the key that sent it has the review scope."""
    rating: int | None = None
    comment: str | None = Field(default=None, sa_type=Text)
    correction: str | None = Field(default=None, sa_type=Text)
    """The right answer's text (an assistant message is kept as its JSON)."""
    choice: int = 0
    tags: list[str] | None = Field(default=None, sa_type=JSON)
    preferred_over: str | None = Field(default=None, max_length=36)
    """The inference whose answer to the same prompt its rater found worse, both before them."""
    assumed: bool = False
    """Nobody named the rater, and the inference that knows its user has not come yet; its coming settles it."""
    current: bool = True
    content_hash: str = ""


class Conversation(SQLModel, table=True):
    """Which version a conversation stays on, kept for a month so that every gateway and a later start know it."""

    __tablename__ = "conversation"

    key: str = Field(primary_key=True, max_length=32)
    """Digest of model and conversation (`storage.conversations`)."""
    version: str
    created: float
    stored: float = Field(index=True)
    """When the row was written: what gateways read on from."""


class PromptGroup(SQLModel, table=True):
    """To which near-duplicate group a prompt belongs; written once, never changed (invariant 4)."""

    __tablename__ = "prompt_group"

    prompt_hash: str = Field(primary_key=True, max_length=64)
    """SHA-256 of the normalised prompt."""
    position: int = Field(index=True)
    """Order in which prompts were seen; a group is keyed by its earliest member."""
    group_key: str = Field(index=True, max_length=64)
    """Prompt hash of the group's earliest member."""
    unused: bool = False
    """True when the prompt is near groups of different sides: it may stand on none."""
    text: str = Field(sa_type=Text)
    """Normalised prompt, from which signatures are computed again."""


@sealed("id", "inference_id", "correction")
class Failure(SQLModel, table=True):
    """A failure case: an inference selected by triage, with reasons."""

    __tablename__ = "failure"
    __table_args__ = (FAILURES_BY_STATE, FAILURES_RESOLVED)

    id: str = Field(primary_key=True, max_length=36)
    inference_id: str = Field(unique=True, max_length=36)
    model: str
    created: float
    reasons: list[dict[str, Any]] = Field(sa_type=JSON)
    """`[{reason, confidence, evidence}]`."""
    state: str = "quarantine"
    """`quarantine` (no accepted correction yet), `corrected`, `accepted` (was right), `dismissed`, `operations` (never data)."""
    correction: str | None = Field(default=None, sa_type=Text)
    resolved_by: str | None = None
    resolved: float | None = None
    waits: str | None = Field(default=None, sa_type=Text)
    """Why it taught nothing when a dataset version was last made, in words; null where it did, or was not looked at."""
    curated: float | None = None
    """When that was. Until somebody says more, triage leaves the state as curation set it."""
    content_hash: str = Field(default="", max_length=64)
    """SHA-256 over inference and correction (`seals`); `db verify` recomputes it."""


class DatasetVersion(SQLModel, table=True):
    """Frozen examples. The rows stand in `datasets/<id>/*.jsonl`, the manifest beside them."""

    __tablename__ = "dataset_version"

    id: str = Field(primary_key=True, max_length=36)
    model: str = Field(index=True)
    parent_id: str | None = None
    content_hash: str
    created: float
    note: str
    manifest: dict[str, Any] = Field(sa_type=JSON)


class Example(SQLModel, table=True):
    """Where each row of a dataset version came from: the middle of the lineage."""

    __tablename__ = "example"

    dataset_id: str = Field(primary_key=True, max_length=36)
    position: int = Field(primary_key=True)
    content_hash: str = Field(index=True, max_length=64)
    split: str
    source: str
    """`correction`, `reviewer`, `replay` (a well-rated answer), `import` or `base` (came with the model)."""
    new: bool
    group_key: str = Field(max_length=64)
    inference_id: str | None = Field(default=None, index=True, max_length=36)
    feedback_id: str | None = Field(default=None, index=True, max_length=36)
    rater: str | None = None
    import_id: str | None = Field(default=None, index=True, max_length=36)
    erased: float | None = None
    """When the row was taken out of the files; its tombstone is `<dataset_id>:<position>`."""


class RegisteredModel(SQLModel, table=True):
    """A name that clients call."""

    __tablename__ = "model"

    name: str = Field(primary_key=True)
    base: str
    created: float
    champion: str | None = None
    """Number of the version that serves; null is the base itself."""
    previous: str | None = None
    """Champion before the last move."""
    moves: int = 0
    """Counts moves of the champion, so that a move made on an old view is refused."""


class ModelVersion(SQLModel, table=True):
    """Base revision + adapter + lineage. A number is given once and never used again."""

    __tablename__ = "model_version"
    __table_args__ = (UniqueConstraint("model", "number"),)

    id: str = Field(primary_key=True, max_length=36)
    model: str = Field(index=True)
    number: str
    state: str = "registered"
    """`registered`, `promoted` (has been champion), `rejected`, `retired` (no longer served)."""
    base: str
    base_revision: str
    dataset_id: str | None = None
    cycle_id: str | None = Field(default=None, index=True)
    adapter_hash: str
    """SHA-256 over the adapter's files, as the manifest lists them."""
    note: str
    facts: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)  # seconds, losses, seed …
    created: float
    rejected: float | None = None  # when it was turned down


class Move(SQLModel, table=True):
    """One move of a champion alias, with who decided and why (invariant 5)."""

    __tablename__ = "champion_move"
    __table_args__ = (UniqueConstraint("model", "position"),)

    id: str = Field(primary_key=True, max_length=36)
    model: str = Field(index=True)
    position: int
    """Which of the model's moves it is, from 1: two moves may have been asked for in another order than they were made."""
    kind: str
    """`promotion` or `rollback`."""
    from_version: str | None
    to_version: str | None
    reason: str
    decided_by: str
    """`gate` with the cycle's id, or the name of a person or key."""
    cycle_id: str | None = None
    created: float


class Retirement(SQLModel, table=True):
    """A version on its way out of the engines and off the disk; open until its files are gone."""

    __tablename__ = "retirement"
    __table_args__ = (UniqueConstraint("model", "number"),)

    id: str = Field(primary_key=True, max_length=36)
    model: str
    number: str
    base: str
    reason: str
    decided_by: str
    created: float
    finished: float | None = None


class GatewayWorker(SQLModel, table=True):
    """One process of a gateway, as long as it lives: a version's files stay until all of them have let go of it."""

    __tablename__ = "gateway_worker"

    id: str = Field(primary_key=True, max_length=36)
    place: str
    """Host and process."""
    seen: float
    progress: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    """`{retirement id: {step, problem}}`."""


class Cycle(SQLModel, table=True):
    """One run of the loop; `steps` is its persisted state machine."""

    __tablename__ = "cycle"

    id: str = Field(primary_key=True, max_length=36)
    model: str = Field(index=True)
    mode: str
    state: str = Field(default="queued", index=True)
    """`queued`, `running`, `canary` (users are deciding), `done`, `cancelled`, `failed`."""
    step: str | None = None
    """The step that is running or comes next."""
    decision: str | None = None
    """`promoted`, `rejected`, `inconclusive`, `skipped`, `proposed`, `reported`."""
    reason: str | None = Field(default=None, sa_type=Text)
    guards_off: list[str] = Field(default_factory=list, sa_type=JSON)
    cancel_requested: bool = False
    requested_by: str
    dataset_id: str | None = None
    version: str | None = None
    steps: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSON)
    """`[{step, started, ended, outcome}]`: what each step did and why."""
    result: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    """The gate's numbers."""
    created: float
    updated: float


class EvaluationResult(SQLModel, table=True):
    """One version's answer to one case: the evaluation cache."""

    __tablename__ = "evaluation_result"

    model: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    case_hash: str = Field(primary_key=True, max_length=64)
    """SHA-256 of messages and decoding parameters."""
    prompt_hash: str = Field(default="", index=True, max_length=64)
    """That of the case's last prompt (`groups.prompt_hash`), so that answers to an erased prompt are found."""
    output: str = Field(sa_type=Text)
    finish_reason: str | None = None
    completion_tokens: int | None = None
    latency_ms: float
    created: float


class Key(SQLModel, table=True):
    """An API key. Only its hash is kept."""

    __tablename__ = "api_key"

    id: str = Field(primary_key=True, max_length=36)
    secret_hash: str = Field(unique=True, max_length=64)
    scopes: list[str] = Field(sa_type=JSON)
    owner: str
    models: list[str] | None = Field(default=None, sa_type=JSON)
    """Models that the key is for; null is all."""
    limits: dict[str, int] | None = Field(default=None, sa_type=JSON)
    """`{rpm, tpm, concurrent}`, each only where there is one."""
    internal: bool = False
    """The loop's own key: it does not count as `a key was created`."""
    created: float
    expires: float | None = None
    """From then on it is refused; null is never."""
    revoked: float | None = None


class Audit(SQLModel, table=True):
    """One administrative act. Append-only: triggers refuse to change or delete a row."""

    __tablename__ = "audit"

    id: str = Field(primary_key=True, max_length=36)
    created: float
    actor: str
    """Owner of the key, the operating system's user, or the part of Starloop that acted."""
    key_id: str | None = None
    act: str = Field(index=True)
    subject: str  # id or name of what was acted on
    details: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)

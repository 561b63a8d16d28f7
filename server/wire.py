"""What clients send to Starloop's own routes. A field that is not known is an error, so a typing slip never goes unseen."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from feedback.access.keys import OWNER_LENGTH
from feedback.settings import Mode

Rating = Annotated[int, Meta(ge=1, le=5)]
Line = Annotated[str, Meta(min_length=1, max_length=1000)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Version = Annotated[str, Meta(min_length=1, max_length=100)]
Text = Annotated[str, Meta(max_length=1_000_000)]
Holder = Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]{8,64}$(?!\n)")]
Allowance = Annotated[int, Meta(ge=1, le=10**12)]
Tag = Annotated[str, Meta(min_length=1, max_length=64)]


class Wire(Struct, forbid_unknown_fields=True, kw_only=True):
    """A request body."""


class AssistantMessage(Wire):
    """The right answer in the form in which the model should have given it."""

    role: Literal["assistant"]
    content: Text | None = None
    tool_calls: list[dict[str, Any]] | None = None
    name: str | None = None
    refusal: str | None = None


class NewFeedback(Wire):
    """At least one of rating, comment, correction, tags and preferred_over."""

    inference_id: str
    rating: Rating | None = None
    comment: Text | None = None
    correction: Text | AssistantMessage | None = None
    tags: Annotated[list[Tag], Meta(max_length=32)] | None = None
    preferred_over: str | None = None
    rater: Name | None = None
    choice: Annotated[int, Meta(ge=0, le=1000)] = 0
    feedback_token: Annotated[str, Meta(max_length=4000)] | None = None


class SignIn(Wire):
    key: Annotated[str, Meta(min_length=1, max_length=256)]


class NewLimits(Wire):
    """What a key may use: requests and tokens a minute, completions at a time; null is no limit."""

    rpm: Allowance | None = None
    tpm: Allowance | None = None
    concurrent: Allowance | None = None


class NewKey(Wire):
    scopes: Annotated[list[Literal["infer", "feedback", "review", "train", "admin"]], Meta(min_length=1)]
    owner: Annotated[str, Meta(max_length=OWNER_LENGTH)] = ""
    """Whose key it is; empty is whoever asks for it."""
    models: Annotated[list[Name], Meta(min_length=1, max_length=1000)] | None = None
    """Models that it is for; null is all."""
    limits: NewLimits | None = None
    expires: Annotated[str, Meta(min_length=1, max_length=40)] | None = None
    """From when on it is refused: 90d, 12h, 4w, or a date or time in UTC."""


class Promote(Wire):
    version: Version
    reason: Line
    cycle_id: Name | None = None
    instead_of: Version | None = None
    """The champion that it was compared with; where that is another by now, nothing is moved."""


class Rollback(Wire):
    reason: Line
    version: Version | None = None
    """What it is expected to lead to; where that is another by now, nothing is moved."""


class NewCanary(Wire):
    version: Version
    reason: Line
    share: Annotated[float, Meta(gt=0.0, lt=1.0)] | None = None
    """Of the users; null takes the setting."""
    hours: Annotated[float, Meta(gt=0.0, le=8784.0)] | None = None
    """Longest time; null takes the setting."""
    cycle_id: Name | None = None
    instead_of: Version | None = None
    """The champion that it was compared with; where that is another by now, no canary begins."""


class EndCanary(Wire):
    reason: Line


class Withdraw(Wire):
    """A version that is rejected or retired, and why."""

    version: Version
    reason: Line


class Resolve(Wire):
    """What is to become of a failure case."""

    action: Literal["correct", "accept", "dismiss"]
    correction: Text | AssistantMessage | None = None
    alike: bool = False
    """The same for all other waiting cases with a prompt like this one's that nobody is looking at."""


class ClaimCase(Wire):
    """`holder` is made anew by each page that reviews; `skip` are cases that it leaves out, `first` one that it wants."""

    model: Name
    holder: Holder
    skip: Annotated[list[Name], Meta(max_length=5000)] = []
    first: Name | None = None


class ReleaseCase(Wire):
    holder: Holder


class DecideHold(Wire):
    """`release` lets what is held count, `uphold` keeps it out for good."""

    action: Literal["release", "uphold"]


class DecideCandidate(Wire):
    action: Literal["accept", "reject"]


class Draw(Wire):
    """How many cases of the golden set to draw from live prompts."""

    model: Name
    count: Annotated[int, Meta(ge=1, le=1000)]


class Confirm(Wire):
    """A case's right answer; without one, the answer that it has stays."""

    answer: Annotated[str, Meta(min_length=1, max_length=1_000_000)] | None = None
    critical: bool | None = None
    """Whether no new version may lose this golden case; without it, what it was stays."""


class NewErasure(Wire):
    user: Name


class NewCycle(Wire):
    model: Name
    mode: Mode | None = None
    guards_off: list[Literal["raters", "replay", "size", "repeat"]] = []
    reason: Line | None = None
    """Why, for the audit log."""


class ChangeCompletion(Wire):
    """OpenAI's metadata, laid in the place of what there was; null takes it away."""

    metadata: dict[str, Any] | None


class CreateBatch(Wire):
    """A file of requests of one endpoint, to be answered within a day."""

    input_file_id: Name
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"]
    completion_window: Literal["24h"]
    metadata: dict[str, Any] | None = None


class BeginUpload(Wire):
    """A file that is to come in parts; `mime_type` is taken, as OpenAI's clients send it, and not kept."""

    filename: Annotated[str, Meta(min_length=1, max_length=255)]
    purpose: Literal["fine-tune", "batch", "evals", "user_data"]
    bytes: Annotated[int, Meta(ge=1, le=1 << 50)]
    mime_type: Annotated[str, Meta(max_length=255)]


class CompleteUpload(Wire):
    part_ids: Annotated[list[Name], Meta(min_length=1, max_length=10_000)]
    md5: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{32}$(?!\n)")] | None = None


class TuningValues(Wire):
    """Hyperparameters of a fine-tuning; `auto`, or none, leaves each to `[training]` and the base's size."""

    n_epochs: Literal["auto"] | Annotated[int, Meta(ge=1, le=50)] | None = None
    batch_size: Literal["auto"] | Annotated[int, Meta(ge=1, le=256)] | None = None
    learning_rate_multiplier: Literal["auto"] | Annotated[float, Meta(gt=0.0, le=100.0)] | None = None


class PairedValues(TuningValues):
    """Those of DPO."""

    beta: Literal["auto"] | Annotated[float, Meta(gt=0.0, le=2.0)] | None = None


class Supervised(Wire):
    hyperparameters: TuningValues | None = None


class Paired(Wire):
    hyperparameters: PairedValues | None = None


class TuningMethod(Wire):
    type: Annotated[str, Meta(max_length=64)]
    supervised: Supervised | None = None
    dpo: Paired | None = None
    reinforcement: Any = None


class NewTuningJob(Wire):
    """A fine-tuning on a file, as OpenAI's clients ask for it."""

    model: Name
    training_file: Name
    validation_file: Name | None = None
    suffix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{0,64}$(?!\n)")] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    method: TuningMethod | None = None
    hyperparameters: TuningValues | None = None
    """The old place of a supervised one's."""
    metadata: dict[str, Any] | None = None
    integrations: list[Any] | None = None

"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    op.create_table(
        "api_key",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("models", sa.JSON(), nullable=True),
        sa.Column("limits", sa.JSON(), nullable=True),
        sa.Column("internal", sa.Boolean(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=True),
        sa.Column("revoked", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("secret_hash"),
    )
    op.create_table(
        "arrival",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("stored", sa.Float(), nullable=False),
        sa.Column("first_inference", sa.String(36), nullable=True),
        sa.Column("last_inference", sa.String(36), nullable=True),
        sa.Column("first_feedback", sa.String(36), nullable=True),
        sa.Column("last_feedback", sa.String(36), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_arrival_stored", "arrival", ["stored"], unique=False)
    op.create_table(
        "audit",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.Column("act", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_audit_act", "audit", ["act"], unique=False)
    _append_only("audit")
    op.create_table(
        "candidate",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("inference_id", sa.String(36), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("request_hash", sa.String(64), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("checks", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("cost", sa.Float(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("decided_by", sa.String(), nullable=True),
        sa.Column("decided", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("inference_id", "source"),
    )
    op.create_index(
        "candidate_accepted",
        "candidate",
        ["inference_id"],
        unique=False,
        sqlite_where=sa.text("state = 'accepted'"),
        postgresql_where=sa.text("state = 'accepted'"),
    )
    op.create_index("candidate_state", "candidate", ["model", "state", "decided"], unique=False)
    op.create_index("ix_candidate_request_hash", "candidate", ["request_hash"], unique=False)
    op.create_table(
        "champion_move",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("from_version", sa.String(), nullable=True),
        sa.Column("to_version", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("decided_by", sa.String(), nullable=False),
        sa.Column("cycle_id", sa.String(), nullable=True),
        sa.Column("created", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("model", "position"),
    )
    op.create_index("ix_champion_move_model", "champion_move", ["model"], unique=False)
    op.create_table(
        "conversation",
        sa.Column("key", sa.String(32), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("stored", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("ix_conversation_stored", "conversation", ["stored"], unique=False)
    op.create_table(
        "cycle",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("mode", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("step", sa.String(), nullable=True),
        sa.Column("decision", sa.String(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("guards_off", sa.JSON(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("dataset_id", sa.String(), nullable=True),
        sa.Column("version", sa.String(), nullable=True),
        sa.Column("steps", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("updated", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_cycle_model", "cycle", ["model"], unique=False)
    op.create_index("ix_cycle_state", "cycle", ["state"], unique=False)
    op.create_table(
        "data_import",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("format", sa.String(), nullable=False),
        sa.Column("columns", sa.JSON(), nullable=False),
        sa.Column("use", sa.String(), nullable=False),
        sa.Column("original_hash", sa.String(), nullable=False),
        sa.Column("original_bytes", sa.BigInteger(), nullable=False),
        sa.Column("content_hash", sa.String(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("examples", sa.Integer(), nullable=False),
        sa.Column("bad", sa.Integer(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("model", "content_hash"),
    )
    op.create_index("ix_data_import_model", "data_import", ["model"], unique=False)
    op.create_table(
        "canary",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("against", sa.String(), nullable=False),
        sa.Column("share", sa.Float(), nullable=False),
        sa.Column("salt", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("started_by", sa.String(), nullable=False),
        sa.Column("cycle_id", sa.String(36), nullable=True),
        sa.Column("move_id", sa.String(36), nullable=True),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("limit", sa.Float(), nullable=False),
        sa.Column("extended", sa.Boolean(), nullable=False),
        sa.Column("ended", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_canary_cycle_id", "canary", ["cycle_id"], unique=False)
    op.create_index("ix_canary_model", "canary", ["model"], unique=False)
    op.create_index(
        "canary_open",
        "canary",
        ["model"],
        unique=True,
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_table(
        "notice",
        sa.Column("cycle_id", sa.String(36), nullable=False),
        sa.Column("channel", sa.String(16), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("told", sa.Text(), nullable=False),
        sa.Column("next_attempt", sa.Float(), nullable=False),
        sa.Column("updated", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("cycle_id", "channel"),
    )
    op.create_table(
        "monthly_finding",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("told", sa.Text(), nullable=False),
        sa.Column("found", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("model", "month"),
    )
    op.create_table(
        "judgement",
        sa.Column("question_hash", sa.String(64), nullable=False),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("cost", sa.Float(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("question_hash"),
    )
    op.create_index("ix_judgement_created", "judgement", ["created"], unique=False)
    op.create_table(
        "dataset_version",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("parent_id", sa.String(), nullable=True),
        sa.Column("content_hash", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_dataset_version_model", "dataset_version", ["model"], unique=False)
    op.create_table(
        "erasure",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("finished", sa.Float(), nullable=True),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("datasets", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_erasure_subject", "erasure", ["subject"], unique=False)
    op.create_table(
        "evaluation_case",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("suite", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("inference_id", sa.String(36), nullable=True),
        sa.Column("asker", sa.String(64), nullable=True),
        sa.Column("prompt_hash", sa.String(64), nullable=False),
        sa.Column("group_key", sa.String(64), nullable=False),
        sa.Column("messages", sa.JSON(), nullable=False),
        sa.Column("tools", sa.JSON(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("version", sa.String(), nullable=True),
        sa.Column("slice", sa.String(), nullable=True),
        sa.Column("critical", sa.Boolean(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("confirmed", sa.Float(), nullable=True),
        sa.Column("confirmed_by", sa.String(), nullable=True),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_evaluation_case_asker", "evaluation_case", ["asker"], unique=False)
    op.create_index("ix_evaluation_case_model", "evaluation_case", ["model"], unique=False)
    op.create_index("ix_evaluation_case_prompt_hash", "evaluation_case", ["prompt_hash"], unique=False)
    op.create_table(
        "evaluation_result",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("case_hash", sa.String(64), nullable=False),
        sa.Column("prompt_hash", sa.String(64), nullable=False),
        sa.Column("output", sa.Text(), nullable=False),
        sa.Column("finish_reason", sa.String(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("latency_ms", sa.Float(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("model", "version", "case_hash"),
    )
    op.create_index("ix_evaluation_result_prompt_hash", "evaluation_result", ["prompt_hash"], unique=False)
    op.create_table(
        "example",
        sa.Column("dataset_id", sa.String(36), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("split", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("new", sa.Boolean(), nullable=False),
        sa.Column("group_key", sa.String(64), nullable=False),
        sa.Column("inference_id", sa.String(36), nullable=True),
        sa.Column("feedback_id", sa.String(36), nullable=True),
        sa.Column("rater", sa.String(), nullable=True),
        sa.Column("import_id", sa.String(36), nullable=True),
        sa.Column("erased", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("dataset_id", "position"),
    )
    op.create_index("ix_example_content_hash", "example", ["content_hash"], unique=False)
    op.create_index("ix_example_feedback_id", "example", ["feedback_id"], unique=False)
    op.create_index("ix_example_import_id", "example", ["import_id"], unique=False)
    op.create_index("ix_example_inference_id", "example", ["inference_id"], unique=False)
    op.create_table(
        "failure",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("inference_id", sa.String(36), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("correction", sa.Text(), nullable=True),
        sa.Column("resolved_by", sa.String(), nullable=True),
        sa.Column("resolved", sa.Float(), nullable=True),
        sa.Column("waits", sa.Text(), nullable=True),
        sa.Column("curated", sa.Float(), nullable=True),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("inference_id"),
    )
    op.create_index(
        "failure_resolved",
        "failure",
        ["model", "resolved"],
        unique=False,
        sqlite_where=sa.text("resolved IS NOT NULL"),
        postgresql_where=sa.text("resolved IS NOT NULL"),
    )
    op.create_index(
        "failure_state", "failure", ["model", "state", "id", "resolved", "inference_id"], unique=False
    )
    op.create_table(
        "feedback",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("inference_id", sa.String(36), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("rater", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("rating", sa.Integer(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("correction", sa.Text(), nullable=True),
        sa.Column("choice", sa.Integer(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=True),
        sa.Column("preferred_over", sa.String(36), nullable=True),
        sa.Column("assumed", sa.Boolean(), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("content_hash", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("feedback_inference", "feedback", ["inference_id", "rater"], unique=False)
    op.create_table(
        "gateway_worker",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("place", sa.String(), nullable=False),
        sa.Column("seen", sa.Float(), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "inference",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("user", sa.String(), nullable=True),
        sa.Column("conversation", sa.String(), nullable=True),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.Column("streamed", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("finish_reason", sa.String(), nullable=True),
        sa.Column("request", sa.Text(), nullable=True),
        sa.Column("response", sa.Text(), nullable=True),
        sa.Column("prompt", sa.Text(), nullable=True),
        sa.Column("output", sa.Text(), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("latency_ms", sa.Float(), nullable=False),
        sa.Column("first_token_ms", sa.Float(), nullable=True),
        sa.Column("metadata", sa.JSON(), nullable=True),
        sa.Column("stored", sa.Boolean(), nullable=False),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.Column("listed", sa.Boolean(), nullable=False),
        sa.Column("content_hash", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "inference_conversation",
        "inference",
        ["conversation", "id"],
        unique=False,
        sqlite_where=sa.text('"user" IS NULL AND conversation IS NOT NULL'),
        postgresql_where=sa.text('"user" IS NULL AND conversation IS NOT NULL'),
    )
    op.create_index(
        "inference_listed",
        "inference",
        ["id"],
        unique=False,
        sqlite_where=sa.text("listed = 1"),
        postgresql_where=sa.text("listed"),
    )
    op.create_index("inference_model_version", "inference", ["model", "version", "id"], unique=False)
    op.create_index("inference_user", "inference", ["user", "id"], unique=False)
    op.create_index("ix_inference_created", "inference", ["created"], unique=False)
    op.create_table(
        "kept_figures",
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("begun", sa.Float(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("value", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("kind", "key"),
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "model",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("base", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("champion", sa.String(), nullable=True),
        sa.Column("previous", sa.String(), nullable=True),
        sa.Column("moves", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "model_version",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("number", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("base", sa.String(), nullable=False),
        sa.Column("base_revision", sa.String(), nullable=False),
        sa.Column("dataset_id", sa.String(), nullable=True),
        sa.Column("cycle_id", sa.String(), nullable=True),
        sa.Column("adapter_hash", sa.String(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("rejected", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("model", "number"),
    )
    op.create_index("ix_model_version_cycle_id", "model_version", ["cycle_id"], unique=False)
    op.create_index("ix_model_version_model", "model_version", ["model"], unique=False)
    op.create_table(
        "prompt_group",
        sa.Column("prompt_hash", sa.String(64), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("group_key", sa.String(64), nullable=False),
        sa.Column("unused", sa.Boolean(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("prompt_hash"),
    )
    op.create_index("ix_prompt_group_group_key", "prompt_group", ["group_key"], unique=False)
    op.create_index("ix_prompt_group_position", "prompt_group", ["position"], unique=False)
    op.create_table(
        "rater_hold",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("feedback", sa.JSON(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("decided_by", sa.String(), nullable=True),
        sa.Column("decided", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_rater_hold_model", "rater_hold", ["model"], unique=False)
    op.create_table(
        "record_count",
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("inferences", sa.BigInteger(), nullable=False),
        sa.Column("feedback", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("shard"),
    )
    op.create_table(
        "retirement",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("number", sa.String(), nullable=False),
        sa.Column("base", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("decided_by", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("finished", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("model", "number"),
    )
    op.create_table(
        "review_claim",
        sa.Column("failure_id", sa.String(36), nullable=False),
        sa.Column("holder", sa.String(128), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("failure_id"),
    )
    op.create_index("ix_review_claim_holder", "review_claim", ["holder"], unique=False)
    op.create_table(
        "review_opinion",
        sa.Column("failure_id", sa.String(36), nullable=False),
        sa.Column("reviewer", sa.String(), nullable=False),
        sa.Column("inference_id", sa.String(36), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("correction", sa.Text(), nullable=True),
        sa.Column("created", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("failure_id", "reviewer"),
    )
    op.create_index("ix_review_opinion_inference_id", "review_opinion", ["inference_id"], unique=False)
    op.create_index("ix_review_opinion_model", "review_opinion", ["model"], unique=False)
    op.create_table(
        "training_step",
        sa.Column("run", sa.String(36), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("epochs", sa.Integer(), nullable=False),
        sa.Column("loss", sa.Float(), nullable=True),
        sa.Column("validation_loss", sa.Float(), nullable=True),
        sa.Column("validation_new", sa.Float(), nullable=True),
        sa.Column("validation_old", sa.Float(), nullable=True),
        sa.Column("learning_rate", sa.Float(), nullable=True),
        sa.Column("gradient_norm", sa.Float(), nullable=True),
        sa.Column("tokens_per_second", sa.Float(), nullable=True),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("noticed", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("run", "step"),
    )
    op.create_table(
        "tombstone",
        sa.Column("id", sa.String(48), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("erased", sa.Float(), nullable=False),
        sa.Column("erasure_id", sa.String(36), nullable=False),
        sa.Column("signature", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_tombstone_erasure_id", "tombstone", ["erasure_id"], unique=False)
    op.create_table(
        "stored_file",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_stored_file_purpose", "stored_file", ["purpose"], unique=False)
    op.create_index("ix_stored_file_key_id", "stored_file", ["key_id"], unique=False)
    op.create_table(
        "parted_upload",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("file_id", sa.String(36), nullable=True),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_parted_upload_expires", "parted_upload", ["expires"], unique=False)
    op.create_table(
        "upload_part",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("upload_id", sa.String(36), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_upload_part_upload_id", "upload_part", ["upload_id"], unique=False)
    op.create_table(
        "completion_metadata",
        sa.Column("inference_id", sa.String(36), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("changed", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("inference_id"),
    )
    op.create_table(
        "request_batch",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("endpoint", sa.String(), nullable=False),
        sa.Column("input_file_id", sa.String(36), nullable=False),
        sa.Column("output_file_id", sa.String(36), nullable=True),
        sa.Column("error_file_id", sa.String(36), nullable=True),
        sa.Column("metadata", sa.JSON(), nullable=True),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.Column("times", sa.JSON(), nullable=False),
        sa.Column("errors", sa.JSON(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_request_batch_status", "request_batch", ["status"], unique=False)
    op.create_index("ix_request_batch_key_id", "request_batch", ["key_id"], unique=False)
    op.create_table(
        "batch_answer",
        sa.Column("batch_id", sa.String(36), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("answered", sa.Boolean(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "line"),
    )
    op.create_table(
        "fine_tuning",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("base", sa.String(), nullable=False),
        sa.Column("asked", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("wanted", sa.String(), nullable=True),
        sa.Column("training_file", sa.String(36), nullable=False),
        sa.Column("validation_file", sa.String(36), nullable=True),
        sa.Column("training_import", sa.String(36), nullable=True),
        sa.Column("validation_import", sa.String(36), nullable=True),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("hyperparameters", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("suffix", sa.String(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=True),
        sa.Column("messages", sa.JSON(), nullable=False),
        sa.Column("dataset_id", sa.String(36), nullable=True),
        sa.Column("version", sa.String(), nullable=True),
        sa.Column("alias", sa.String(), nullable=True),
        sa.Column("result_file", sa.String(36), nullable=True),
        sa.Column("trained_tokens", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("finished", sa.Float(), nullable=True),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("alias"),
    )
    for column in ("model", "state", "key_id"):
        op.create_index(f"ix_fine_tuning_{column}", "fine_tuning", [column], unique=False)
    op.create_table(
        "contender_answer",
        sa.Column("question_hash", sa.String(64), nullable=False),
        sa.Column("contender", sa.String(), nullable=False),
        sa.Column("prompt_hash", sa.String(64), nullable=False),
        sa.Column("output", sa.Text(), nullable=True),
        sa.Column("finish_reason", sa.String(), nullable=True),
        sa.Column("tokens_in", sa.Integer(), nullable=False),
        sa.Column("tokens_out", sa.Integer(), nullable=False),
        sa.Column("cost", sa.Float(), nullable=False),
        sa.Column("latency_ms", sa.Float(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("question_hash"),
    )
    for column in ("contender", "prompt_hash"):
        op.create_index(f"ix_contender_answer_{column}", "contender_answer", [column], unique=False)
    op.create_table(
        "triage_mark",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("stored", sa.Float(), nullable=False),
        sa.Column("rules", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("model"),
    )


def _append_only(table: str) -> None:
    """Let the database refuse to change or delete the table's rows."""
    told = f"{table} is append-only"
    if op.get_bind().dialect.name == "sqlite":
        for event in ("update", "delete"):
            op.execute(
                f"CREATE TRIGGER {table}_refuses_{event} BEFORE {event} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{told}'); END"
            )
        return
    op.execute(
        f"CREATE FUNCTION {table}_refuses() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{told}' USING ERRCODE = 'integrity_constraint_violation'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_refuses BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_refuses()"
    )

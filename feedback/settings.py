"""Configuration: what can be set, with every default, as frozen records passed down by section.

Loaded once by an entry point (`settings_file.load`); nothing else reads the environment. The comments in
`deploy/starloop.toml` are checked against these fields by a test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Seconds = Annotated[float, Meta(gt=0)]
Mode = Literal["report", "propose", "auto"]
ApiKind = Literal["openai", "anthropic"]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table of `starloop.toml`."""


class Storage(Section, frozen=True):
    directory: str = "starloop-data"
    database: str = ""
    """SQLAlchemy URL; empty means an SQLite file in the directory. `postgresql://…` is enough."""


class Server(Section, frozen=True):
    host: str = "127.0.0.1"
    port: Port = 8000
    workers: Positive = 1
    body_limit: Positive = 4_000_000
    """Bytes of the largest request body."""
    upload_limit: Positive = 2_000_000_000
    """Bytes of the largest file that is sent to be imported."""
    feedback_token_days: Positive = 30
    session_hours: Seconds = 12.0
    """How long a session of the pages lasts."""
    drain_seconds: Seconds = 30.0
    """How long requests in flight may take to end after SIGTERM."""
    answer_seconds: Seconds = 3600.0
    """Longest time for one whole answer, streamed or not."""
    batch_concurrency: Positive = 8
    """Requests of batches under way at a time, while no user's is; then one."""
    log: Literal["text", "json"] = "text"
    log_requests: bool = False
    """Log each answered inference, not only those that failed."""
    traces: str = ""
    """OTLP collector over HTTP; empty takes what `OTEL_EXPORTER_OTLP_ENDPOINT` says, and without that sends none."""


class Engine(Section, frozen=True):
    base: str = "starter"
    urls: list[str] = []
    port: Port = 8100
    host: str = "127.0.0.1"
    arguments: list[str] = []
    """Added to vLLM's command line as they stand."""
    environment: dict[str, str] = {}
    priority: bool = False
    """That the engines at `urls` schedule by priority, as those that Starloop starts do."""
    max_loras: Positive = 4
    max_cpu_loras: Positive = 32
    max_lora_rank: Positive = 16
    start_seconds: Seconds = 600.0
    request_seconds: Seconds = 600.0
    """Longest wait for an answer's next byte."""
    price_per_hour: Annotated[float, Meta(ge=0.0)] = 0.0
    """Of the device that serves, in any currency, shared evenly by its models; 0 leaves the cost of serving out of reports."""

    @property
    def by_priority(self) -> bool:
        """Whether a request may say there that it waits behind others."""
        return self.priority or not self.urls

    @property
    def adapter_limit(self) -> int:
        """Versions that the engine keeps in memory."""
        return max(self.max_cpu_loras, self.max_loras)


class Model(Section, frozen=True):
    name: Name
    base: str = "starter"
    mode: Mode = "propose"
    schema: str = ""
    """File with the JSON schema that answers must meet; the starter brings its own."""
    labels: list[str] = []
    """Instead of a schema: the labels of which an answer must be one, to the letter."""
    pattern: str = ""
    """Instead of either: a regular expression (RE2) that must match a whole answer."""
    check: str = ""
    """`module:function` that takes an answer (and its messages) and returns None or what is wrong with it."""
    constrain: bool = False  # the engine decodes within the schema, labels or pattern
    examples: str = ""
    """OpenAI chat JSONL of base examples, for replay and regression; the starter brings its own."""
    keep_champions: Positive = 10  # former ones; older ones make room in the engines
    reviewers: Annotated[int, Meta(ge=1, le=2)] = 1
    """Who must agree on a failure case before it counts as decided."""
    monthly_budget: Annotated[float, Meta(ge=0.0)] = 0.0
    """What serving and training may cost in a month, for reports alone; 0 is not set."""


class Capture(Section, frozen=True):
    sync: Literal["os", "disk"] = "os"
    """`os` survives the death of any process, `disk` also a power cut."""
    journal_bytes: Annotated[int, Meta(ge=1 << 20)] = 8 << 30
    """Most that one worker's journal may take while its records cannot be brought to the database."""
    content: Literal["all", "metadata"] = "all"
    """`metadata` keeps who asked which version when, how long it took and what it cost, and nothing that was written."""
    pii: Literal["keep", "redact"] = "keep"
    """`redact` puts placeholders in the place of personal data before anything is written down."""
    retention_days: Count = 0
    """What users wrote goes when it is older; 0 keeps it for ever."""


ReasonName = Literal[
    "low_rating",
    "edited",
    "asked_again",
    "negative_follow_up",
    "empty",
    "truncated",
    "refusal",
    "repetition",
    "schema_invalid",
    "error",
    "slow",
]


class Triage(Section, frozen=True):
    off: list[ReasonName] = []
    """Reasons that are not looked for."""
    low_rating: Annotated[int, Meta(ge=1, le=4)] = 2
    within_minutes: Annotated[float, Meta(gt=0, le=1440)] = 10.0
    """How long after an answer its user's next words still say something about it."""
    asked_again_likeness: Annotated[float, Meta(ge=0.3, le=1.0)] = 0.7
    refusals: list[str] = []
    """Phrases that open a refusal, beside those that are known."""
    complaints: list[str] = []
    """Phrases that open a complaint about the last answer, beside those that are known."""
    slow_deviations: Annotated[float, Meta(ge=2.0, le=100.0)] = 6.0


class Dataset(Section, frozen=True):
    minimum_new: Positive = 50
    replay: Annotated[float, Meta(ge=0.0, le=20.0)] = 4.0
    """Replayed old examples per new one."""
    rater_share: Share = 0.02
    rater_minimum: Positive = 5
    """At most max(rater_minimum, rater_share × new examples) new examples come from one rater."""
    evaluation_share: Annotated[float, Meta(ge=0.01, le=0.9)] = 0.1
    """Share of prompt groups, and of users, kept for evaluation. Fixed once data exists: sides never change."""
    validation_share: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.1
    near_duplicate: Annotated[float, Meta(ge=0.5, le=1.0)] = 0.8
    pii: Literal["keep", "redact", "drop"] = "keep"
    """What becomes of personal data in examples: `redact` puts placeholders there, `drop` leaves the example out."""
    imported: Positive = 50_000
    """Most imported answers that a dataset version looks at, for learning and for replay each."""
    low_reliability: Share = 0.7
    """Share of the crowd's reliability below which a rater's corrections wait until somebody else agrees."""
    corroborate: bool = False
    """A correction counts only with a second rater in its prompt group."""
    brigade_raters: Annotated[int, Meta(ge=2)] = 5
    brigade_hours: Seconds = 1.0
    """So many new raters on one target within these hours are held for review together."""
    self_generated: Share = 0.3
    """Most of the targets that models wrote (teacher, best-of-n)."""


class Training(Section, frozen=True):
    method: Literal["auto", "sft", "dpo", "kto"] = "auto"
    """`auto` imitates right answers where they are known, else learns from preferences."""
    rank: Positive = 16
    alpha: Annotated[int, Meta(ge=1, le=1 << 16)] = 32
    learning_rate: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    """0 chooses by the base's size."""
    epochs: Count = 0
    """0 chooses by the base's size."""
    batch: Positive = 16
    max_tokens: Positive = 2048
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0
    patience: Positive = 3
    threads: Count = 0
    """0 takes one less than the cores, at least one; on Ray it is the CPUs that a job asks for, and 0 is one."""
    devices: str = ""
    """GPUs that train, as CUDA numbers or names them (`1`, `0,1`, `GPU-…`), several together; empty takes the first, `cpu` takes none."""
    ray: str = ""
    """Address of a Ray cluster's dashboard: trainings are jobs there. Every node has the data directory under the same path."""
    memory_limit: Count = 0
    """Most bytes of main memory that training on a CPU may take; 0 is what is free when it begins."""
    gradient_checkpointing: bool = False
    """Make a layer's activations again for the backward pass instead of keeping them: less memory, a slower step."""
    quantisation: Literal["", "nf4"] = ""
    """`nf4` trains on the base in 4 bits (QLoRA), of the extra `bitsandbytes`: a third of its memory, a slower step."""
    timeout_seconds: Seconds = 86_400.0
    checkpoint_seconds: Annotated[float, Meta(ge=0.0)] = 60.0
    """Between two checkpoints, more where saving one takes long; 0 saves after every step."""
    teraflops: Annotated[float, Meta(ge=0.0)] = 0.0
    """What the training device does a second, for estimates alone; 0 assumes this machine's CPU."""
    price_per_hour: Annotated[float, Meta(ge=0.0)] = 0.0
    """Of one training device, in any currency; 0 gives no estimate of cost."""
    hosted_prices: dict[str, float] = {}
    """What services take for training on a million tokens, by name: estimates show it beside."""
    window: str = ""
    """Hours (UTC) in which trainings of cycles and fine-tunings begin (`02:00-05:00`); empty is any time."""
    engine_asleep: bool = False
    """The engines that Starloop manages sleep while a training runs in its window: its memory is theirs."""
    log_to: list[Literal["tensorboard", "mlflow"]] = []
    """Where each step is shown besides the record; each needs its extra (`starloop[tensorboard]`, `starloop[mlflow]`)."""
    mlflow_url: str = ""
    """The tracking server of MLflow; its credentials are those of MlflowClient (MLFLOW_TRACKING_TOKEN and others)."""


class Evaluation(Section, frozen=True):
    concurrency: Positive = 16
    max_tokens: Positive = 64
    request_seconds: Seconds = 120.0
    suite_limit: Positive = 2000
    """Most cases taken from one suite."""
    samples: Annotated[int, Meta(ge=0, le=32)] = 0
    """Answers drawn to each of a hundred golden cases, to see how far they agree; 0 draws none."""


class Promotion(Section, frozen=True):
    margin: Share = 0.03
    format_floor: Share = 0.95
    latency: Share = 0.10
    """Most that latency per token may grow, as a share of the champion's."""


class Canary(Section, frozen=True):
    """Users compare the challenger with the champion before it is promoted (mode `auto`), and after."""

    share: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.2
    """Of the users, who get the challenger; 0 promotes on the gate's word alone."""
    hours: Annotated[float, Meta(gt=0.0, le=8784.0)] = 24.0
    at_limit: Literal["promote", "hold"] = "promote"
    """What becomes after `hours` of one that neither passed nor failed: promoted on the gate's word, or left to a person."""
    margin: Annotated[float, Meta(gt=0.0, le=4.0)] = 0.15
    """Loss of mean stars that has to be excluded for it to pass early."""
    better: bool = False
    """Asks for a proven gain of stars instead."""
    minimum_users: Annotated[int, Meta(ge=10)] = 50
    """Users of each version who have to have rated before ratings decide."""
    guardrail: Share = 0.02
    """Most that the share of failed or malformed answers may exceed the other version's."""
    latency: Annotated[float, Meta(gt=0.0)] = 0.5
    """Most that the time per token may grow, as a share of the other version's."""
    holdback: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.05
    """Of the users, who keep the champion before while a promotion is watched; 0 watches none."""
    watch_hours: Annotated[float, Meta(gt=0.0, le=8784.0)] = 168.0
    """How long a promotion is watched."""
    look_seconds: Seconds = 2.0
    """Between two looks at the guardrails."""


class Schedule(Section, frozen=True):
    cron: str = "0 3 * * *"
    """When cycles start by themselves (five fields, UTC); empty means only by hand."""
    new_corrections: Count = 0
    """Start one when so many corrections came since the last; 0 does not."""
    new_ratings: Count = 0
    """The same by answers that users rated or preferred to another, and did not correct."""
    rating_drop: Annotated[float, Meta(ge=0.0, le=4.0)] = 0.0
    """Start one when a day's mean stars fell by so much, beyond chance; 0 does not."""
    poll_seconds: Seconds = 1.0
    lease_seconds: Annotated[float, Meta(gt=0, le=1800)] = 15.0
    webhook: str = ""
    """Address that is told when a cycle, a canary or a watch ends; signed where STARLOOP_WEBHOOK_SECRET is set."""
    email: str = ""  # whom to write to of the same, through `smtp`
    email_from: str = ""  # the sender; empty takes `email`
    smtp: str = ""
    """`smtp://user@host:587` or `smtps://…`; the password is STARLOOP_SMTP_PASSWORD's value."""


class Teacher(Section, frozen=True):
    """A stronger model that proposes corrections, and how the model's own best of several does."""

    url: str = ""
    """Base of its API, up to `/v1`; empty asks no teacher. Its key is STARLOOP_TEACHER_KEY's value."""
    kind: ApiKind = "openai"
    """Which API it speaks: OpenAI's chat completions, as most servers do, or Anthropic's Messages."""
    model: str = ""
    accept: Literal["review", "checked"] = "review"
    """`checked` trains on proposals that pass all checks of the task; `review` waits for a person."""
    best_of: Annotated[int, Meta(ge=0, le=64)] = 0
    """Answers that the current model gives to a failed prompt to choose from; 0 switches best-of-n off."""
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] = 0.8
    """Of best-of-n; a teacher is asked greedily."""
    limit: Count = 200
    """Most failure cases proposed for at a time."""
    max_tokens: Positive = 1024
    """Of one proposal."""
    budget_tokens: Count = 1_000_000
    """Most tokens of a calendar month, in and out."""
    budget_money: Annotated[float, Meta(ge=0.0)] = 10.0
    """Most that a calendar month may cost, in the currency of the prices."""
    price_in: Annotated[float, Meta(ge=0.0)] = 0.0
    """Per million tokens of prompts."""
    price_out: Annotated[float, Meta(ge=0.0)] = 0.0
    timeout_seconds: Seconds = 60.0
    retries: Count = 4


class Judge(Section, frozen=True):
    """A model that compares challenger and champion on golden cases, beside the people's answers. It promotes nothing."""

    url: str = ""
    """Base of its API, up to `/v1`; empty asks no judge. Its key is STARLOOP_JUDGE_KEY's value."""
    kind: ApiKind = "openai"
    model: str = ""
    agreement: Share = 0.8
    """Share of pairs on which it has to agree with people, beyond chance, before its word counts."""
    limit: Positive = 200
    """Most pairs of answers judged in a cycle; each is asked about twice."""
    max_tokens: Positive = 256
    """Of one verdict."""
    budget_tokens: Count = 1_000_000
    """Most tokens of a calendar month, in and out."""
    budget_money: Annotated[float, Meta(ge=0.0)] = 10.0
    """Most that a calendar month may cost, in the currency of the prices."""
    price_in: Annotated[float, Meta(ge=0.0)] = 0.0
    """Per million tokens of questions."""
    price_out: Annotated[float, Meta(ge=0.0)] = 0.0
    timeout_seconds: Seconds = 60.0
    retries: Count = 4


class Contender(Section, frozen=True):
    """A model elsewhere that answers the cases too, to be compared with. It is never promoted."""

    name: str = ""
    """What it is called in tables; no version's number."""
    url: str = ""
    """Base of its API, up to `/v1`; empty: there is none."""
    kind: ApiKind = "openai"
    model: str = ""
    key: str = ""
    """The environment's variable that holds its key; empty asks without one."""
    cycles: bool = False
    """Each cycle's evaluation asks it too; otherwise `starloop evaluate --contenders` alone."""
    max_tokens: Positive = 1024
    """Of one answer."""
    budget_tokens: Count = 1_000_000
    """Most tokens of a calendar month, in and out."""
    budget_money: Annotated[float, Meta(ge=0.0)] = 10.0
    """Most that a calendar month may cost, in the currency of the prices."""
    price_in: Annotated[float, Meta(ge=0.0)] = 0.0
    """Per million tokens of prompts."""
    price_out: Annotated[float, Meta(ge=0.0)] = 0.0
    timeout_seconds: Seconds = 60.0
    retries: Count = 4


class Settings(Section, frozen=True):
    """The whole configuration."""

    storage: Storage = Storage()
    server: Server = Server()
    engine: list[Engine] = field(default_factory=lambda: [Engine()])
    model: list[Model] = field(default_factory=lambda: [Model(name="assistant")])
    capture: Capture = Capture()
    triage: Triage = Triage()
    dataset: Dataset = Dataset()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    promotion: Promotion = Promotion()
    canary: Canary = Canary()
    schedule: Schedule = Schedule()
    teacher: Teacher = Teacher()
    judge: Judge = Judge()
    contender: list[Contender] = field(default_factory=lambda: [Contender()])

    @property
    def directory(self) -> Path:
        """The data directory, absolute."""
        return Path(self.storage.directory).expanduser().absolute()

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the database."""
        url = self.storage.database
        if not url:
            return f"sqlite:///{self.directory / 'starloop.sqlite'}"
        for short in ("postgresql://", "postgres://"):
            if url.startswith(short):
                return "postgresql+psycopg://" + url.removeprefix(short)
        return url

    def model_named(self, name: str) -> Model | None:
        """The `[[model]]` of that name."""
        return next((model for model in self.model if model.name == name), None)

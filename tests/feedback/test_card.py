"""Model cards: what is on record stands there, what is not is said, and nothing in it can be more than text."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from feedback.errors import NotFoundError
from feedback.registry.models import ensure_models, move_champion
from feedback.registry.versions import mark_version, reserve_version
from feedback.reports.card import model_card
from feedback.settings import Settings
from feedback.storage.database import Database
from feedback.storage.tables import Canary, Cycle, DatasetVersion
from server.command import main
from tests.feedback.records import NOW


@pytest.fixture
def recorded(sqlite_database: Database) -> Database:
    """A promoted version with all its past, and one that was trained by hand."""
    with sqlite_database.session() as session:
        ensure_models(session, Settings(), NOW)
        counts = {
            "rows": 300,
            "new": 100,
            "splits": {"train": 270, "validation": 30},
            "sources": {"correction": 100, "base": 200},
            "new_slices": {f"kind-{n:02}": 100 - n for n in range(20)},
        }
        session.add(
            DatasetVersion(
                id="data",
                model="assistant",
                content_hash="d" * 64,
                created=0.0,
                note="",
                manifest={"counts": counts},
            )
        )
        figures = {"n": 200, "accuracy": 0.875, "valid_format": 1.0, "ms_per_token": 4.25, "macro_f1": None}
        figures["facets"] = {"customer=ACME": {"n": 9, "accuracy": 1.0}}
        golden = {"n": 200, "difference": 0.375, "interval": [0.3, 0.45]}
        contenders = {"hosted": {"model": "big", "per_thousand": 1.25, "suites": {"golden": figures}}}
        gate = {
            "suites": {"golden": golden},
            "decision": "promoted",
            "reasons": ["golden set: 30 fixes <script>and</script> 2 regressions"],
        }
        cycle = Cycle(
            id="cycle",
            model="assistant",
            mode="auto",
            requested_by="test",
            guards_off=["raters"],
            created=0.0,
            updated=0.0,
            version="1.0",
            result={
                "champion": "base",
                "contenders": contenders,
                "versions": {"base": {"golden": figures | {"accuracy": 0.5}}, "1.0": {"golden": figures}},
                "gate": gate,
            },
        )
        session.add(cycle)
        facts = {
            "method": "sft",
            "examples": 270,
            "validation_loss": 0.123456,
            "diagnoses": [{"text": "flat | high"}],
        }
        for cycle_id, dataset in (("cycle", "data"), (None, None)):
            made = reserve_version(
                session,
                "assistant",
                cycle_id,
                dataset,
                "starter",
                "rev",
                "h" * 64,
                "added 100 examples",
                facts,
                NOW,
            )
            mark_version(session, "assistant", made.number, "registered")
        for version, began, cycle_id in (("1.0", "gate", "cycle"), ("1.1", "ada", None)):
            session.add(
                Canary(
                    id=f"canary of {version}",
                    model="assistant",
                    kind="canary",
                    version=version,
                    against="base",
                    share=0.2,
                    salt="x",
                    state="passed",
                    reason="rated better beyond chance",
                    started_by=began,
                    cycle_id=cycle_id,
                    created=0.0,
                    limit=0.0,
                )
            )
        move_champion(session, "assistant", "1.0", "promotion", "better", "gate", "cycle", NOW)
        session.commit()
    return sqlite_database


def test_a_card_tells_the_versions_whole_past(recorded: Database) -> None:
    with recorded.reading() as session:
        card = model_card(session, "assistant", "1.0")
    front = card.split("---\n")[1]
    assert json.loads(front.splitlines()[0].partition(": ")[2]) == "starter" and "library_name: " in front
    for said in (
        "# assistant@1.0",
        "State: promoted.",
        "| validation loss | 0.1235 |",
        "| source correction | 100 |",
        "| new rows of the kind 8 more | 676 |",
        "| figure | base (champion) | 1.0 (new) | improvement | 95 % | hosted |",
        "| golden: right, of 200 | 50.0 % | 87.5 % | +37.5 points | +30.0 to +45.0 | 87.5 % |",
        "| a thousand answers cost | – | – | – | – | 1.25 |",
        "hosted is big, a model elsewhere.",
        "The gate said **promoted**",
        "canary against base, 20% of the users: passed. rated better beyond chance",
        "became the champion (promotion by gate): better",
        "made without these guards: raters",
    ):
        assert said in card, said
    assert "customer=ACME" not in card  # whoever may ask the model reads it
    assert "<script>" not in card and "flat \\| high" in card


def test_what_is_not_on_record_is_said(recorded: Database) -> None:
    with recorded.reading() as session:
        card = model_card(session, "assistant", "1.1")
        assert card.count("canary against base, 20% of the users: passed.") == 1  # which a person began
        assert (
            "It was not judged by the gate." in card and "What it learned from is not on record here." in card
        )
        with pytest.raises(NotFoundError, match=r"no version '9\.9'"):
            model_card(session, "assistant", "9.9")


def test_the_command_prints_it_and_refuses_what_names_no_version(recorded: Database) -> None:
    folder = str(recorded.engine.url.database).rsplit("/", 1)[0]
    environment = {"STARLOOP_STORAGE__DIRECTORY": folder}
    done = CliRunner().invoke(main, ["models", "card", "assistant@1.0"], env=environment)
    assert done.exit_code == 0 and "# assistant@1.0" in done.output
    told = CliRunner().invoke(main, ["models", "card", "assistant@1.0", "--json"], env=environment)
    assert json.loads(told.output)["card"].startswith("---\n")
    wrong = CliRunner().invoke(main, ["models", "card", "assistant"], env=environment)
    assert wrong.exit_code == 1 and "names no version" in wrong.output

"""`/datasets`: what was frozen, by which rules, and why each example is in it."""

from __future__ import annotations

import json
import re

import pytest
from markupsafe import escape

from feedback.checks.frozen import FORM, Frozen, check_dataset
from feedback.checks.told import told
from feedback.datasets.files import folder_of
from feedback.datasets.freeze import build_dataset
from feedback.ids import new_id
from feedback.storage.tables import DatasetVersion, Example
from tests.feedback.world import NOW, RIGHT, World, settings_for
from tests.server.inside import Inside
from tests.server.test_access import bearing, make_key
from tests.server.test_cycle_pages import page
from tests.server.test_reading_pages import visitor

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def dataset(gateway: Inside) -> str:
    """A version of thirty corrections, one of them by somebody who means harm; its id."""
    world = World(gateway.gateway.database, settings_for(gateway.settings.directory, rater_minimum=50))
    for number in range(30):
        prompt = (
            f"{EVIL if number == 7 else 'question'} number {number} about {'abcdefghij'[number % 10] * 7}"
        )
        world.correct(f"{prompt} {number * 7919}", RIGHT, user=f"user {number}")
    world.write()
    identifier = new_id(NOW)
    build_dataset(world.database, world.settings, "assistant", identifier, ["replay"], NOW)
    return identifier


def test_a_version_shows_its_counts_slices_rules_and_examples(gateway: Inside, dataset: str) -> None:
    listed = page(gateway, "/datasets")
    assert f'href="/datasets/{dataset}"' in listed and "added" in listed
    text = page(gateway, f"/datasets/{dataset}")
    for shown in ("Splits", "correction", "Slices", "refund", "settings: evaluation share", "SHA-256"):
        assert shown in text, shown
    assert "?example=0#why" in text


def test_examples_are_paged_and_filtered(gateway: Inside, dataset: str) -> None:
    first = page(gateway, f"/datasets/{dataset}")
    (following,) = re.findall(r'href="(/datasets/[^"]+after=\d+)"', first)
    second = page(gateway, following.replace("&amp;", "&"))
    places = [re.findall(r"<span>(\d+)</span><span>train", text) for text in (first, second)]
    assert len(places[0]) == 25 and places[1] and not set(places[0]) & set(places[1])
    assert "None is like that." in page(gateway, f"/datasets/{dataset}?source=replay")
    assert "None is like that." not in page(gateway, f"/datasets/{dataset}?source=correction&new=1")
    assert 'role="alert"' in page(gateway, f"/datasets/{dataset}?after=x", status=400)


def test_the_checklist_is_run_when_it_is_asked_for_and_says_what_the_command_says(
    gateway: Inside, dataset: str
) -> None:
    plain = page(gateway, f"/datasets/{dataset}")
    assert "?check=1#checklist" in plain and "aria-busy" not in plain
    asked = f"/datasets/{dataset}?check=1"
    assert 'aria-busy="true"' in page(gateway, asked)  # and the process that runs it has begun
    gateway.eventually(lambda: "aria-busy" not in page(gateway, asked), 60.0)
    text = page(gateway, asked)
    for row in told(check_dataset(Frozen(gateway.settings, "assistant", dataset))):
        assert row[0] in text and escape(row[1]).split("`")[0] in text, row
    assert "0 rows are near those of the other side" in text and FORM in text


def test_why_an_example_is_in_it_is_for_reviewers(gateway: Inside, dataset: str) -> None:
    reviewer, trainer = (bearing(make_key(gateway, scope)) for scope in ("review", "train"))
    text = page(gateway, f"/datasets/{dataset}?example=3", reviewer)
    assert "Why example 3 is in it" in text and "source: a user wrote it as a correction" in text
    plain = page(gateway, f"/datasets/{dataset}?example=3", trainer)
    assert "Why example" not in plain and "#why" not in plain and "number" in plain
    assert "has no example" in page(gateway, f"/datasets/{dataset}?example=999", reviewer, 404)


def test_what_users_wrote_is_text(gateway: Inside, dataset: str) -> None:
    texts = [
        page(gateway, f"/datasets/{dataset}{query}")
        for query in ("", "?after=24", *(f"?example={n}" for n in range(0, 30, 5)))
    ]
    assert any("&lt;img src=x" in text for text in texts)


def test_a_version_whose_files_are_gone_still_shows_what_is_known(gateway: Inside, dataset: str) -> None:
    (folder_of(gateway.settings.directory, dataset) / "train.jsonl").unlink()
    text = page(gateway, f"/datasets/{dataset}")
    assert "the file is missing" in text and "Splits" in text


def test_strangers_other_scopes_and_other_models_see_nothing(gateway: Inside, dataset: str) -> None:
    assert "Sign in first" in page(gateway, f"/datasets/{dataset}", visitor(gateway, "infer", "feedback"))
    other = visitor(gateway, "train", models=["other"])
    assert "there is no dataset" in page(gateway, f"/datasets/{dataset}", other, 404)
    assert "is not for the model" in page(gateway, "/datasets?model=assistant", other, 403)
    assert "there is no dataset" in page(
        gateway, "/datasets/0199e0c8-2b6f-7a31-9d2c-3a5b7c9d1e2f", visitor(gateway, "train"), 404
    )


def test_a_version_with_a_bare_manifest_is_shown(gateway: Inside) -> None:
    identifier = new_id(NOW)
    with gateway.gateway.database.session() as session:
        row = DatasetVersion(
            id=identifier, model="assistant", content_hash="0", note=EVIL, manifest={}, created=0
        )
        session.add(row)
        session.commit()
    assert "&lt;img src=x" in page(gateway, f"/datasets/{identifier}")
    assert "&lt;img src=x" in page(gateway, "/datasets")


def test_two_versions_show_what_came_what_went_and_what_got_another_answer(
    gateway: Inside, dataset: str
) -> None:
    database, directory = gateway.gateway.database, gateway.settings.directory
    rows = [
        json.loads(line) for line in (folder_of(directory, dataset) / "train.jsonl").read_text().splitlines()
    ]
    other, folder = new_id(NOW), None
    kept, changed, new = rows[2], rows[1] | {"id": "c" * 64, "answer": EVIL}, rows[0] | {"id": "n" * 64}
    new["messages"] = [{"role": "user", "content": "A question that nobody asked before"}]
    folder = folder_of(directory, other)
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (kept, changed, new)))
    (folder / "validation.jsonl").touch()
    with database.session() as session:
        first = session.get(DatasetVersion, dataset)
        assert first is not None
        session.add(
            DatasetVersion(
                id=other, model="assistant", created=1.0, content_hash="0", note="", manifest=first.manifest
            )
        )
        session.flush()
        for place, one in enumerate((kept, changed, new)):
            session.add(
                Example(
                    dataset_id=other,
                    position=place,
                    content_hash=one["id"],
                    split="train",
                    source="correction",
                    new=False,
                    group_key="g",
                )
            )
        session.commit()
    text = page(gateway, f"/datasets/{other}?against={dataset}")
    assert "1 came, " in text and "1 got another answer, 1 are the same." in text
    assert "A question that nobody asked before" in text and "<ins>" in text and "<del>" in text
    assert f'value="{dataset}" selected' in text
    page(gateway, f"/datasets/{other}?against={new_id(NOW)}", status=404)


def test_who_may_train_can_send_a_file_and_sees_what_was_taken(gateway: Inside) -> None:
    trainer, reviewer = (bearing(make_key(gateway, scope)) for scope in ("train", "review"))
    assert 'id="upload"' in page(gateway, "/datasets", trainer)
    assert 'id="upload"' not in page(gateway, "/datasets", reviewer)
    row = {"prompt": "Where is it?", "completion": RIGHT}
    sent = gateway.call("POST", "/v1/imports?model=assistant&name=%3Cb%3Erows.jsonl", row, trainer)
    assert sent.status == 201, sent.body
    text = page(gateway, "/datasets", reviewer)
    assert "&lt;b&gt;rows.jsonl" in text and "1 rows" in text

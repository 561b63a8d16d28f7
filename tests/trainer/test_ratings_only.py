"""A model whose users give stars and nothing else: a cycle learns from the ratings, by KTO, with nobody at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from feedback.ids import new_id
from feedback.registry.versions import get_version
from feedback.settings import Dataset, Promotion, Training
from feedback.storage.database import Database
from feedback.storage.tables import Cycle, DatasetVersion, Feedback, ModelVersion
from tests.trainer.tiny import write_base
from tests.trainer.world import MODEL, World, prompt, truth
from trainer.cycle import run_cycle
from trainer.publication import make_version
from trainer.training import Progress

RATERS = 200


class RatedWorld(World):
    """Versions are trained for real, on a tiny base."""

    def make_version(self, cycle: Cycle, on_progress: Callable[[Progress], None]) -> ModelVersion:
        version = make_version(self.database, self.settings, self.clock, cycle, on_progress)
        self.server.versions[version.number] = self.learns
        return version

    def users_rate(self, good: int, bad: int) -> None:
        """So many old prompts answered right and praised, and new ones answered wrong and blamed."""
        wanted = [("old", n, 5) for n in range(good)] + [("new", n, 1) for n in range(bad)]
        with self.database.session() as session:
            for place, (kind, number, stars) in enumerate(wanted):
                text, user = prompt(kind, number), f"user-{place % RATERS}"
                inference = self.answered(text, user, truth(text) if stars == 5 else "colour unknown")
                session.add(inference)
                rated = {"inference_id": inference.id, "rater": user, "rating": stars}
                session.add(Feedback(id=new_id(self.clock()), created=self.now.timestamp(), **rated))
            session.commit()

    def dataset(self, cycle: Cycle) -> DatasetVersion:
        with self.database.reading() as session:
            found = session.get(DatasetVersion, cycle.dataset_id)
        assert found is not None
        return found


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> RatedWorld:
    # A handful of praised cases protects here, which cannot exclude a loss of three points.
    training, promotion = Training(epochs=1, rank=4), Promotion(margin=0.5)
    made = RatedWorld(sqlite_database, tmp_path, training=training, promotion=promotion)
    write_base(tmp_path / "tiny-base")
    made.settings = replace(made.settings, dataset=Dataset(evaluation_share=0.1))
    made.people_confirm(old=50, new=50)
    return made


def run(world: RatedWorld) -> Cycle:
    return run_cycle(world.workshop(), world.record(world.request()), pauses=())


def test_ratings_alone_are_frozen_trained_on_by_kto_explained_and_promoted_and_not_learned_twice(
    world: RatedWorld,
) -> None:
    world.users_rate(good=330, bad=330)
    cycle = run(world)
    assert (cycle.state, cycle.decision, cycle.version) == ("done", "promoted", "1.0"), cycle.reason
    dataset = world.dataset(cycle)
    counts = dataset.manifest["counts"]
    assert counts["new"] == 0 and counts["rated"] > 200 and counts["sources"].keys() == {"base", "replay"}
    assert dataset.note.startswith("added 0 examples and ") and "rated answers; replayed " in dataset.note
    with world.database.reading() as session:
        facts = get_version(session, MODEL, "1.0").facts
    why = facts["method_reason"]
    assert facts["method"] == "kto", why
    assert "few right answers are known, and many answers were called good or bad" in why
    assert facts["good"] >= 200 and facts["bad"] >= 200 and facts["steps"] > 20
    again = run(world)
    assert again.decision == "skipped"
    assert "0 new examples; at least 50 are needed" in (again.reason or "") and "0 of them new" in (
        again.reason or ""
    )


def test_too_few_ratings_are_told_with_what_is_missing(world: RatedWorld) -> None:
    world.users_rate(good=300, bad=100)
    cycle = run(world)
    assert cycle.decision == "skipped"
    assert "KTO learns from those where there are 200 of each, and 4 new ones of each count for one" in (
        cycle.reason or ""
    )


def test_where_right_answers_alone_are_to_be_learned_ratings_do_not_count(world: RatedWorld) -> None:
    world.settings = replace(world.settings, training=replace(world.settings.training, method="sft"))
    world.users_rate(good=330, bad=330)
    cycle = run(world)
    assert cycle.decision == "skipped" and (cycle.reason or "").startswith("0 new examples; at least 50")

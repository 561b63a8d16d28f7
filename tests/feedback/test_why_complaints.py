"""`data why` tells what users said about the same answer to like prompts."""

from __future__ import annotations

from pathlib import Path

from feedback.datasets.neighbours import DENIED
from feedback.datasets.why import why_example
from feedback.storage.database import Database
from tests.feedback.test_freeze import build, rows_of
from tests.feedback.test_neighbours import CITIES
from tests.feedback.test_why import triage
from tests.feedback.world import OTHER, RIGHT, World, settings_for


def test_an_example_tells_the_share_of_complaints_about_its_answer_to_like_prompts(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """Two of a dozen who were answered the same complain, which is too few to leave the praise out."""
    world = World(sqlite_database, settings_for(tmp_path))
    for number, city in enumerate(CITIES):
        prompt, user = f"give back the money for my order to {city} please", f"user {number}"
        if number < 2:
            world.say(world.ask(prompt, RIGHT, user), 1, rater=user)
        else:
            world.praise(prompt, user)
    world.correct("I cannot get into my account any more, the password is refused", OTHER)
    triage(world.write())
    dataset = build(world, guards_off=("replay", "size"))
    told = {}
    with world.database.reading() as session:
        for row in rows_of(world, dataset):
            if denied := row["why"].get("neighbours", {}).get("denied"):
                why = why_example(session, world.settings.directory, dataset, row["id"])
                told[denied] = next(one for one in why["told"] if one.startswith("complaints: "))
    assert told and all(0 < denied < DENIED for denied in told)
    for denied, line in told.items():
        assert line == (
            f"complaints: {100 * denied:.0f}% of what was said about the same answer to like prompts; left out is what more "
            "than 60% complain about"
        )

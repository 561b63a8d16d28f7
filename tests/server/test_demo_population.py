"""The demo's simulated people: seeded, truthful where they should be, and lying where they should."""

from __future__ import annotations

import json

from feedback.starter.grammar import DRIFT, KNOWN, draw
from server.demo.population import (
    EARLIER_SHARE,
    LIARS,
    LIES,
    NEWEST_SHARE,
    NOISE,
    RATES,
    Population,
    Request,
    held_out,
)


def test_the_same_seed_makes_the_same_people_say_the_same_things() -> None:
    first, second = Population(7), Population(7)
    assert first.traffic(50, DRIFT[0]) == second.traffic(50, DRIFT[0])
    assert first.traffic(50, ()) != Population(8).traffic(50, ())


def test_without_drift_users_ask_only_about_known_topics() -> None:
    assert {request.message.intent for request in Population(1).traffic(300, ())} == set(KNOWN)


def test_with_drift_new_topics_are_part_of_the_traffic() -> None:
    requests = Population(1).traffic(2000, newest=DRIFT[1], earlier=DRIFT[0])
    intents = [request.message.intent for request in requests]
    assert abs(sum(intent in DRIFT[1] for intent in intents) / len(intents) - NEWEST_SHARE) < 0.04
    assert abs(sum(intent in DRIFT[0] for intent in intents) / len(intents) - EARLIER_SHARE) < 0.03


def test_right_answers_get_high_stars_and_wrong_ones_low_stars_with_some_noise() -> None:
    people = Population(3)
    requests = people.traffic(4000, ())
    pleased = [people.opinion(request, request.message.answer) for request in requests]
    said = [opinion for opinion in pleased if opinion]
    assert abs(len(said) / len(requests) - RATES) < 0.03
    assert abs(sum(opinion.rating <= 2 for opinion in said) / len(said) - NOISE) < 0.02
    cross = [people.opinion(request, "{}") for request in requests]
    low = [opinion for opinion in cross if opinion and opinion.rating <= 2]
    corrected = [opinion for opinion in low if opinion.correction]
    assert 0.28 < len(corrected) / len(low) < 0.39


def test_liars_agree_on_a_wrong_name_and_keep_to_the_schema() -> None:
    people = Population(5)
    attack = people.attack(40)
    assert len({request.user for request in attack}) == LIARS
    for request in attack:
        opinion = people.opinion(request, request.message.answer)
        assert opinion is not None and opinion.rating == 1 and opinion.correction is not None
        told = json.loads(opinion.correction)
        assert told["intent"] == LIES[request.message.intent] != request.message.intent
        assert told["urgency"] == request.message.urgency


def test_held_out_messages_cover_every_topic_with_the_numbers_asked_for() -> None:
    messages = held_out(1, 20, 10)
    for intent in KNOWN:
        assert sum(message.intent == intent for message in messages) == 20
    for pair in DRIFT:
        for intent in pair:
            assert sum(message.intent == intent for message in messages) == 10


def test_a_wrong_answer_never_pleases_a_liar_or_costs_them_a_word() -> None:
    people = Population(9)
    message = draw(people.rng, tuple(LIES), "live")
    opinion = people.opinion(Request("liar-0", message, liar=True), "anything")
    assert opinion is not None and opinion.rating == 1

"""Contenders: models elsewhere beside the versions, with their price; asked once, within a budget, and never in the way."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from sqlmodel import select

from feedback.datasets.groups import prompt_hash
from feedback.errors import NotFoundError, SettingsError
from feedback.ids import new_id
from feedback.privacy.removal import Removal, remove_inferences
from feedback.privacy.tombstones import open_mason
from feedback.registry.models import move_champion
from feedback.reports.card import model_card
from feedback.settings import Contender
from feedback.settings_file import load
from feedback.storage.contender_table import ContenderAnswer
from feedback.storage.database import Database
from feedback.storage.tables import Cycle, Inference
from tests.trainer.elsewhere import Elsewhere, elsewhere
from tests.trainer.world import MODEL, World, truth
from trainer.commands.evaluate import evaluate
from trainer.contenders import Contended, contend, wanted_contenders
from trainer.cycle import run_cycle
from trainer.suites import collect
from trainer.workshop import Workshop

KEY = "sk-very-secret"


class Ring:
    """A world whose cases a stand-in elsewhere answers too."""

    def __init__(self, world: World, other: Elsewhere) -> None:
        self.world, self.other = world, other
        self.secrets = {"HOSTED_KEY": KEY}
        self.entry(name="hosted")

    def entry(self, **values: Any) -> Contender:
        """The one contender of the configuration, from now on."""
        plain = {"url": self.other.url, "model": "big", "key": "HOSTED_KEY", "retries": 0}
        plain |= {"price_in": 2.0, "price_out": 10.0}
        one = Contender(**(plain | {"name": "hosted"} | values))
        self.world.settings = msgspec.structs.replace(self.world.settings, contender=[one])
        return one

    def one_at_a_time(self) -> None:
        settings = self.world.settings
        evaluation = msgspec.structs.replace(settings.evaluation, concurrency=1)
        self.world.settings = msgspec.structs.replace(settings, evaluation=evaluation)

    def workshop(self) -> Workshop:
        return replace(self.world.workshop(), secrets=self.secrets)

    def run(self) -> Contended:
        workshop = self.workshop()
        with workshop.database.reading() as session:
            cases = collect(session, MODEL, workshop.settings).golden
        return contend(workshop, workshop.settings.contender[0], workshop.model(MODEL), cases)

    def kept(self) -> list[ContenderAnswer]:
        with self.world.database.reading() as session:
            return list(session.exec(select(ContenderAnswer)))


@pytest.fixture
def ring(sqlite_database: Database, tmp_path: Path) -> Iterator[Ring]:
    world = World(sqlite_database, tmp_path)
    world.people_confirm(20, 20)
    with elsewhere(truth) as other:
        yield Ring(world, other)


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_it_stands_beside_the_versions_with_its_price(
    ring: Ring, kind: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ring.entry(kind=kind)
    monkeypatch.setattr("trainer.opening.open_workshop", lambda _, **__: _Open(ring.workshop()))
    file = tmp_path / "starloop.toml"
    file.write_text(
        f"""[storage]
directory = "{tmp_path}"
[[engine]]
base = "{tmp_path}/tiny-base"
[[model]]
name = "assistant"
base = "{tmp_path}/tiny-base"
[[contender]]
name = "hosted"
url = "{ring.other.url}"
model = "big"
kind = "{kind}"
key = "HOSTED_KEY"
price_in = 2.0
price_out = 10.0
""",
        encoding="utf-8",
    )
    arguments = ["--model", MODEL, "--versions", "base", "--contenders", "all", "--config", str(file)]
    shown = CliRunner().invoke(evaluate, arguments)
    assert shown.exit_code == 0, shown.output
    head, *rows = [re.split(" {2,}", line) for line in shown.stdout.splitlines()]
    assert head[-1] == "cost of 1,000"
    (row,) = (one for one in rows if one[:2] == ["hosted", "golden"])
    assert "100.0%" in row and row[-1] == "0.3"  # 100 tokens at 2 and 10 at 10, a million
    asked = len(ring.other.bodies)
    document = json.loads(CliRunner().invoke(evaluate, [*arguments, "--json"]).stdout)
    assert len(ring.other.bodies) == asked == len(ring.kept()), "the same question is asked once"
    (told,) = document["contenders"]
    golden = told["suites"]["golden"]
    assert (told["contender"], told["model"], golden["accuracy"]) == ("hosted", "big", 1.0)
    assert (golden["against"]["version"], golden["against"]["fixes"]) == ("base", 20)
    assert (told["tokens_in"], told["tokens_out"]) == (100 * asked, 10 * asked)
    assert [one["version"] for one in document["versions"]] == ["base"]
    header = "authorization" if kind == "openai" else "x-api-key"
    for headers in ring.other.headers:
        assert KEY in headers.pop(header) and KEY not in repr(headers)
    assert KEY not in repr(ring.other.bodies) + shown.output + repr(ring.kept())


class _Open:
    """A workshop that is open already."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop

    def __enter__(self) -> Workshop:
        return self._workshop

    def __exit__(self, *_: object) -> None:
        pass


def test_anthropics_api_gets_the_system_message_where_it_wants_it(ring: Ring) -> None:
    schema = ring.world.directory / "schema.json"
    schema.write_text('{"type": "object"}')
    (model,) = ring.world.settings.model
    model = msgspec.structs.replace(model, schema=str(schema))
    ring.world.settings = msgspec.structs.replace(ring.world.settings, model=[model])
    ring.entry(kind="anthropic", max_tokens=77)
    ring.run()
    body = ring.other.bodies[0]
    assert body["system"].startswith("Answer with JSON alone") and '{"type": "object"}' in body["system"]
    assert [one["role"] for one in body["messages"]] == ["user"]
    assert (body["max_tokens"], body["temperature"], body["model"]) == (77, 0, "big")
    assert ring.other.headers[0]["anthropic-version"] == "2023-06-01"


def test_a_model_that_refuses_our_parameters_is_asked_without_them(ring: Ring) -> None:
    ring.other.lacks = ("max_tokens", "temperature")
    done = ring.run()
    assert (len(done.answers), done.stopped, done.asked) == (40, "", 40)
    last = ring.other.bodies[-1]
    assert last["max_completion_tokens"] == 1024 and not {"max_tokens", "temperature"} & set(last)


@pytest.mark.parametrize(
    ("values", "told"),
    [({"budget_tokens": 3000}, "budget_tokens"), ({"budget_money": 0.008}, "budget_money")],
    ids=["tokens", "money"],
)
def test_what_it_may_take_in_a_month_is_bounded(ring: Ring, values: dict[str, Any], told: str) -> None:
    one = ring.entry(**values, max_tokens=100)
    ring.one_at_a_time()
    done = ring.run()
    assert 0 < len(done.answers) < 40 and told in done.stopped and "contender hosted" in done.stopped
    rows = ring.kept()
    assert sum(row.tokens_in + row.tokens_out for row in rows) <= one.budget_tokens
    assert sum(row.cost for row in rows) <= one.budget_money
    before = len(ring.other.bodies)
    again = ring.run()
    assert again.answers == done.answers and len(ring.other.bodies) == before


def test_one_that_is_away_says_so_and_keeps_what_it_answered(ring: Ring) -> None:
    ring.one_at_a_time()
    ring.other.says = lambda text: truth(text) if len(ring.other.bodies) <= 10 else (529, "overloaded")
    done = ring.run()
    assert len(done.answers) == 10 == len(ring.kept())
    assert "the contender hosted at http://127.0.0.1" in done.stopped and "overloaded" in done.stopped
    ring.other.says = truth
    assert len(ring.run().answers) == 40 and len(ring.kept()) == 40


def test_a_key_that_is_missing_or_refused_names_its_variable(ring: Ring) -> None:
    ring.other.says = lambda _: (401, f"no such key {KEY}")
    refused = ring.run().stopped
    assert "refused the key (401); set HOSTED_KEY" in refused and KEY not in refused
    ring.secrets = {}
    before = len(ring.other.bodies)
    assert "set HOSTED_KEY" in ring.run().stopped and len(ring.other.bodies) == before


def test_a_prompt_that_it_does_not_take_is_not_passed_and_refusals_alone_are_no_figures(ring: Ring) -> None:
    ring.other.says = lambda text: truth(text) if text.startswith("old") else (400, "too long")
    ring.one_at_a_time()
    done = ring.run()
    refused = [one for one in done.answers.values() if (one.finish_reason or "").startswith("refused: ")]
    if not done.stopped:  # the order of cases decides whether it answered before it refused five
        assert (len(done.answers), len(refused)) == (40, 20)
    ring.other.says = lambda _: (400, "Your credit balance is too low")
    with ring.world.database.session() as session:
        for row in ring.kept():
            session.delete(row)
        session.commit()
    broke = ring.run()
    assert broke.answers == {} and "credit balance" in broke.stopped
    assert len(ring.other.bodies) < 50


def cycle_of(ring: Ring) -> Cycle:
    identifier = ring.world.request()
    return run_cycle(ring.workshop(), ring.world.record(identifier), pauses=())


def test_a_cycle_asks_those_that_are_to_be_asked_and_decides_without_them(ring: Ring) -> None:
    ring.world.users_correct(120)
    ring.world.people_confirm(50, 50)
    ring.entry(cycles=True)
    cycle = cycle_of(ring)
    assert cycle.decision == "promoted" and cycle.result is not None
    assert set(cycle.result["versions"]) == {"base", "1.0"}
    told = cycle.result["contenders"]["hosted"]
    assert told["suites"]["golden"]["accuracy"] == 1.0
    assert told["per_thousand"] == pytest.approx(0.3)
    with ring.world.database.reading() as session:
        card = model_card(session, MODEL, "1.0")
    assert "| figure | base (champion) | 1.0 (new) | improvement | 95 % | hosted |" in card
    assert "| a thousand answers cost | – | – | – | – | 0.3 |" in card
    assert not any("hosted" in one["text"] for one in cycle.result["gate"]["findings"])


def test_a_contender_that_is_away_costs_a_cycle_nothing_else(ring: Ring) -> None:
    ring.world.users_correct(120)
    ring.world.people_confirm(50, 50)
    ring.entry(cycles=True)
    ring.other.says = lambda _: (503, "busy")
    cycle = cycle_of(ring)
    assert cycle.decision == "promoted" and cycle.result is not None
    assert cycle.result["contenders"]["hosted"]["suites"]["golden"]["n"] == 0
    told = next(entry["outcome"] for entry in cycle.steps if entry["step"] == "evaluate")
    assert "hosted: the contender hosted at" in told and "busy" in told


def test_an_erased_prompt_takes_its_answers_along_and_leaves_what_they_cost(ring: Ring) -> None:
    ring.run()
    before = ring.kept()
    with ring.world.database.reading() as session:
        case = collect(session, MODEL, ring.world.settings).golden[0]
    text, now = case.messages[-1]["content"], ring.world.clock()
    with ring.world.database.session() as session:
        asked = Inference(id=new_id(now), created=now.timestamp(), model=MODEL, version="base", status=200)
        asked.user, asked.prompt, asked.latency_ms = "ann", text, 1.0
        session.add(asked)
        session.flush()
        mason = open_mason(ring.world.directory)
        remove_inferences(session, [asked.id], Removal(mason, "e", now, lambda _: False, keeps_cases=False))
        session.commit()
    (gone,) = (row for row in ring.kept() if row.output is None)
    assert gone.prompt_hash == prompt_hash(text) and gone.cost > 0
    assert sum(row.cost for row in ring.kept()) == pytest.approx(sum(row.cost for row in before))


def test_a_contender_is_no_version_that_could_be_promoted(ring: Ring) -> None:
    ring.run()
    with ring.world.database.session() as session, pytest.raises(NotFoundError):
        move_champion(session, MODEL, "hosted", "promotion", "best", "ann", None, ring.world.clock())


def test_without_the_setting_a_cycle_asks_nobody(ring: Ring) -> None:
    ring.world.users_correct(120)
    cycle = cycle_of(ring)
    assert cycle.result is None or cycle.result.get("contenders", {}) == {}
    assert ring.other.bodies == []


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('name = "base"', "cannot be a contender's"),
        ('name = "1.0"', "no version's number"),
        ('name = "all"', "take another name"),
        ('name = "a"\nkey = "sk-live-0123456789"', "names no variable"),
        ('name = "a"\nmodel = ""', "contender[0].model: is empty"),
        ('name = ""', "contender[0].name: is empty"),
        ('name = "a"\nkind = "gemini"', "contender[0].kind"),
    ],
    ids=["base", "number", "all", "key", "no model", "no name", "kind"],
)
def test_what_is_no_contender_is_told_by_its_place(tmp_path: Path, lines: str, told: str) -> None:
    file = tmp_path / "starloop.toml"
    model = "" if "model" in lines else 'model = "big"\n'
    file.write_text(f'[[contender]]\nurl = "http://host/v1"\n{model}{lines}\n', encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load(file, {})
    assert told in str(caught.value) and "sk-live" not in str(caught.value)


def test_names_that_the_configuration_does_not_have_are_told(ring: Ring) -> None:
    assert [one.name for one in wanted_contenders(ring.world.settings, "hosted, hosted")] == ["hosted"]
    with pytest.raises(SettingsError, match="it has: hosted"):
        wanted_contenders(ring.world.settings, "hosted,other")

"""Configuration: what a file and the environment give, and how everything that is wrong with them is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from feedback.errors import SettingsError
from feedback.settings import Engine, Model, Settings
from feedback.settings_file import load


def _file(directory: Path, text: str) -> Path:
    path = directory / "starloop.toml"
    path.write_text(text, encoding="utf-8")
    return path


def _problems(path: Path | None, **environment: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(path, environment)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_without_a_file_there_is_one_engine_and_one_model_on_the_starter() -> None:
    settings = load(None, {})

    assert settings == Settings()
    assert settings.engine == [Engine()]
    assert settings.model == [Model(name="assistant", base="starter", mode="propose")]
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8000)
    assert settings.directory == Path.cwd() / "starloop-data"


def test_a_file_says_only_what_differs(tmp_path: Path) -> None:
    settings = load(_file(tmp_path, '[server]\nport = 9000\n[[model]]\nname = "helper"\nmode = "auto"\n'), {})

    assert settings.server.port == 9000
    assert settings.server.workers == Settings().server.workers
    assert settings.model == [Model(name="helper", mode="auto")]
    assert settings.engine == [Engine()]


def test_a_variable_goes_before_the_file(tmp_path: Path) -> None:
    path = _file(tmp_path, '[server]\nport = 9000\nhost = "::1"\n')

    settings = load(path, {"STARLOOP_SERVER__PORT": "9001"})

    assert (settings.server.port, settings.server.host) == (9001, "::1")


def test_a_variable_for_text_stays_text_even_when_it_looks_like_a_number() -> None:
    settings = load(None, {"STARLOOP_STORAGE__DIRECTORY": "2026"})

    assert settings.directory == Path.cwd() / "2026"


def test_lists_and_tables_come_as_json_in_a_variable() -> None:
    settings = load(
        None,
        {
            "STARLOOP_ENGINE__URLS": '["http://one:8000", "http://two:8000"]',
            "STARLOOP_ENGINE__ENVIRONMENT": '{"CUDA_VISIBLE_DEVICES": "1"}',
        },
    )

    assert settings.engine[0].urls == ["http://one:8000", "http://two:8000"]
    assert settings.engine[0].environment == {"CUDA_VISIBLE_DEVICES": "1"}


def test_a_variable_for_an_array_of_tables_reaches_the_first(tmp_path: Path) -> None:
    path = _file(tmp_path, '[[model]]\nname = "one"\n[[model]]\nname = "two"\n')

    settings = load(path, {"STARLOOP_MODEL__MODE": "report"})

    assert [(model.name, model.mode) for model in settings.model] == [("one", "report"), ("two", "propose")]


def test_a_variable_for_the_model_keeps_its_default_name() -> None:
    assert load(None, {"STARLOOP_MODEL__MODE": "auto"}).model == [Model(name="assistant", mode="auto")]


def test_variables_that_are_no_settings_are_left_alone() -> None:
    assert load(None, {"STARLOOP_CONFIG": "somewhere.toml", "PATH": "/bin"}) == Settings()


def test_an_unknown_key_is_named_with_the_nearest_right_one(tmp_path: Path) -> None:
    path = _file(tmp_path, "[server]\nprot = 9000\n")

    assert _problems(path) == [f"{path}: server.prot: unknown key; did you mean 'port'?"]


def test_an_unknown_section_is_named_with_the_nearest_right_one(tmp_path: Path) -> None:
    path = _file(tmp_path, "[sever]\nport = 9000\n")

    assert _problems(path) == [f"{path}: sever: unknown key; did you mean 'server'?"]


def test_an_unknown_variable_is_an_error_too() -> None:
    section, key = _problems(None, STARLOOP_SEVER__PORT="9000"), _problems(None, STARLOOP_SERVER__PROT="1")

    assert section == [
        "the environment: STARLOOP_SEVER__PORT: there is no section [sever]; did you mean 'server'?"
    ]
    assert key == ["the environment: server.prot: unknown key; did you mean 'port'?"]


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        '[server]\nport = 70000\nworkers = "two"\nhots = "x"\n[triage]\nlow_rating = 5\n'
        '[[model]]\nname = "a/b"\n[[model]]\nmode = "maybe"\n[schedule]\npoll_seconds = 0\n',
    )

    problems = _problems(path)

    assert len(problems) == 8
    for place in (
        "server.port",
        "server.workers",
        "server.hots",
        "triage.low_rating",
        "schedule.poll_seconds",
    ):
        assert any(problem.startswith(f"{path}: {place}: ") for problem in problems), place
    for place in ("model[0].name", "model[1].mode", "model[1].name: is required"):
        assert any(problem.startswith(f"{path}: {place}") for problem in problems), place


def test_a_wrong_value_is_shown(tmp_path: Path) -> None:
    (problem,) = _problems(_file(tmp_path, "[server]\nport = 70000\n"))

    assert problem.endswith("got 70000")


def test_a_section_that_is_no_table_is_said(tmp_path: Path) -> None:
    path = _file(tmp_path, "server = 9000\n")

    assert _problems(path) == [f"{path}: server: must be a table, not int"]


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    (problem,) = _problems(tmp_path / "none.toml")

    assert "there is no such file" in problem
    assert "deploy/starloop.toml" in problem


@pytest.mark.parametrize("content", [b"[server\nport = 1", b"\xff\xfe\x00", b"a = 1\na = 2\n"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "starloop.toml"
    path.write_bytes(content)

    (problem,) = _problems(path)

    assert problem.startswith(f"{path}: ")


def test_a_directory_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    (problem,) = _problems(tmp_path)

    assert problem.startswith(f"{tmp_path}: cannot be read")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[model]]\nname = "a"\n[[model]]\nname = "a"\n', "the name 'a' is used twice"),
        (
            "[[engine]]\nport = 8101\n[[engine]]\nport = 8102\n",
            "the base 'starter' has two [[engine]] tables",
        ),
        ('[[model]]\nname = "a"\nbase = "x"\n', "no [[engine]] serves its base 'x' (there are: starter)"),
        ("[training]\nrank = 32\n", "training.rank: 32 is above max_lora_rank 16"),
        ("[server]\nport = 8100\n", "port 8100 is used twice"),
    ],
)
def test_what_only_shows_across_sections_is_found(tmp_path: Path, text: str, said: str) -> None:
    (problem,) = _problems(_file(tmp_path, text))

    assert said in problem


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[engine]]\nurls = ["127.0.0.1:8100"]\n', "engine[0].urls: '127.0.0.1:8100' is not an address"),
        ('[[engine]]\nurls = ["ftp://gpu"]\n', "engine[0].urls: 'ftp://gpu' is not an address"),
        ('[[engine]]\nurls = ["http://gpu:99999"]\n', "engine[0].urls: 'http://gpu:99999' is not an address"),
        ('[[engine]]\nurls = ["http://gpu:80 "]\n', "engine[0].urls: 'http://gpu:80 ' is not an address"),
        ('[[engine]]\nurls = [""]\n', "engine[0].urls: '' is not an address"),
        ('[schedule]\ncron = "0 3 * *"\n', "schedule.cron: '0 3 * *' is no schedule"),
        ('[schedule]\ncron = "61 3 * * *"\n', "schedule.cron: '61 3 * * *' is no schedule"),
        ('[storage]\ndatabase = "mysql://ann:secret@h/d"\n', "storage.database: 'mysql' is no database"),
        (
            '[storage]\ndatabase = "postgresql+asyncpg://h/d"\n',
            "storage.database: 'postgresql+asyncpg' is no",
        ),
        ('[storage]\ndatabase = "starloop.sqlite"\n', "storage.database: it names no database"),
        ('[storage]\ndirectory = ""\n', "storage.directory: is empty"),
        ('[storage]\ndirectory = " "\n', "storage.directory: is empty"),
    ],
)
def test_a_value_that_nothing_could_be_done_with_is_found_at_once(
    tmp_path: Path, text: str, said: str
) -> None:
    path = _file(tmp_path, text)

    (problem,) = _problems(path)

    assert problem.startswith(f"{path}: {said}")
    assert "secret" not in problem


def test_useless_values_are_said_together_with_all_else(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        '[server]\nport = 0\n[storage]\ndirectory = ""\ndatabase = "oracle://h"\n'
        '[schedule]\ncron = "daily"\n[[engine]]\nurls = ["a", "http://right", "b"]\n',
    )

    problems = _problems(path)

    assert len(problems) == 5
    assert any("'a' is not an address" in problem and "'b' is not" in problem for problem in problems)


def test_settings_that_are_right_are_taken(tmp_path: Path) -> None:
    text = '[schedule]\ncron = "*/5 * * * mon-fri"\n[[engine]]\nurls = ["http://gpu:8100/under", "https://[::1]"]\n'

    assert load(_file(tmp_path, text), {}).schedule.cron == "*/5 * * * mon-fri"
    assert load(_file(tmp_path, '[schedule]\ncron = ""\n'), {}).schedule.cron == ""


def test_an_engine_that_runs_elsewhere_takes_no_port_here(tmp_path: Path) -> None:
    path = _file(tmp_path, '[server]\nport = 8100\n[[engine]]\nurls = ["http://gpu-1:8100"]\n')

    assert load(path, {}).server.port == 8100


@pytest.mark.parametrize(
    ("written", "used"),
    [
        ("postgresql://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgres://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg://u@h/d"),
        ("sqlite:////tmp/x.sqlite", "sqlite:////tmp/x.sqlite"),
    ],
)
def test_a_short_database_url_gets_its_driver(written: str, used: str) -> None:
    assert load(None, {"STARLOOP_STORAGE__DATABASE": written}).database_url == used


def test_without_a_database_url_the_file_lies_in_the_data_directory(tmp_path: Path) -> None:
    settings = load(None, {"STARLOOP_STORAGE__DIRECTORY": str(tmp_path)})

    assert settings.database_url == f"sqlite:///{tmp_path}/starloop.sqlite"


def test_a_model_is_found_by_its_name() -> None:
    settings = Settings()

    assert settings.model_named("assistant") is settings.model[0]
    assert settings.model_named("nobody") is None


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("share", "1.0", "< 1.0"),
        ("holdback", "1", "< 1.0"),
        ("hours", "9000", "<= 8784.0"),
        ("hours", "inf", "<= 8784.0"),
        ("watch_hours", "inf", "<= 8784.0"),
    ],
)
def test_what_would_make_no_canary_is_refused_before_a_training_has_run(
    tmp_path: Path, key: str, value: str, said: str
) -> None:
    path = _file(tmp_path, f"[canary]\n{key} = {value}\n")

    (problem,) = _problems(path)

    assert problem.startswith(f"{path}: canary.{key}: ") and said in problem


def test_shares_and_times_of_a_canary_up_to_their_bounds_are_taken(tmp_path: Path) -> None:
    path = _file(tmp_path, "[canary]\nshare = 0.99\nholdback = 0\nhours = 8784\nwatch_hours = 8784\n")

    assert (load(path, {}).canary.share, load(path, {}).canary.hours) == (0.99, 8784.0)

"""Metrics: what is counted, what a scrape at any worker shows, and that neither clients nor deaths can spoil it."""

from __future__ import annotations

import asyncio
import errno
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from feedback.ids import new_id
from feedback.registry.snapshot import ModelRoute, Snapshot
from feedback.registry.versions import mark_version
from feedback.settings import Server
from feedback.storage.aside import set_aside
from feedback.storage.records import InferenceRecord
from server.telemetry import families
from server.telemetry.cells import SIZE, Cells, read_all
from server.telemetry.exposition import expose
from server.telemetry.families import FAMILIES
from server.telemetry.metrics import Metrics
from tests.server.inside import HELLO, Inside, inside, settings_for
from tests.server.metrics_cost import microseconds, report_of
from tests.server.test_access import bearing, make_key
from tests.server.test_completion import STREAM, full, identifier
from tests.server.upstream import FakeEngine
from tests.server.versions import add_version

__all__ = ["full"]  # a fixture
ROUTE = "/v1/chat/completions"
EXAMPLE = Path(__file__).parents[2] / "deploy" / "prometheus.yml"
README = Path(__file__).parents[2] / "server" / "README.md"
Numbers = dict[tuple[str, ...], float]


def numbers(text: str) -> Numbers:
    """The samples of a scrape by name and label values, in the order of the table."""
    found: Numbers = {}
    for family in text_string_to_metric_families(text):
        table = next(one for one in FAMILIES if one.name.removesuffix("_total") == family.name)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(table.labels)
            values = [sample.labels[name] for name in (*table.labels, "le") if name in sample.labels]
            found[sample.name, *values] = sample.value
    return found


def scrape(gateway: Inside, headers: dict[str, str] | None = None) -> Numbers:
    answer = gateway.call("GET", "/metrics", None, headers)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return numbers(answer.body.decode())


def told(*all_metrics: Metrics, registry: Snapshot | None = None) -> Numbers:
    """A scrape at the last of these workers."""
    return numbers(expose(all_metrics[-1].readings(), registry, {}).decode())


def record(model: str = "assistant", version: str = "1.0", **facts: object) -> InferenceRecord:
    made = {"status": 200, "latency_ms": 30.0, "prompt_tokens": 7, "completion_tokens": 2, **facts}
    return InferenceRecord(id="x", created=0.0, model=model, version=version, **made)  # type: ignore[arg-type]


# -- the table


def test_the_readme_lists_every_metric_with_its_labels_and_no_other() -> None:
    rows = re.findall(
        r"^\| `(starloop_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", README.read_text(), re.MULTILINE
    )
    listed = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels)), meaning) for name, kind, labels, meaning in rows
    }

    assert listed == {family.name: (family.kind, family.labels, family.meaning) for family in FAMILIES}


def test_the_table_names_each_metric_once_and_all_that_the_module_holds() -> None:
    held = {value for value in vars(families).values() if isinstance(value, families.Family)}

    assert set(FAMILIES) == held and len({family.name for family in FAMILIES}) == len(held)


# -- what is counted


def test_an_answer_is_counted_under_its_version(gateway: Inside) -> None:
    gateway.ask()
    gateway.ask(STREAM)
    seen = scrape(gateway)
    assert seen["starloop_requests_total", ROUTE, "assistant", "base", "2xx"] == 2
    assert seen["starloop_tokens_total", "assistant", "base", "prompt"] == 14
    assert seen["starloop_tokens_total", "assistant", "base", "completion"] == 4
    assert seen["starloop_request_seconds_count", "assistant", "base"] == 2
    assert seen["starloop_request_seconds_bucket", "assistant", "base", "+Inf"] == 2
    assert seen["starloop_first_token_seconds_count", "assistant", "base"] == 1
    assert 0 < seen["starloop_first_token_seconds_sum", "assistant", "base"] < 1


def test_what_fails_is_counted_by_class(gateway: Inside, engine: FakeEngine) -> None:
    gateway.ask({"max_tokens": 0})
    engine.status = 500
    gateway.ask()
    engine.status, engine.die_after = 200, 2
    gateway.ask(STREAM)
    seen = scrape(gateway)
    assert seen["starloop_requests_total", ROUTE, "assistant", "base", "4xx"] == 1
    assert seen["starloop_requests_total", ROUTE, "assistant", "base", "5xx"] == 2  # the broken stream too
    assert ("starloop_requests_total", ROUTE, "assistant", "base", "2xx") not in seen
    assert seen["starloop_request_seconds_count", "assistant", "base"] == 0


def test_clients_cannot_make_labels(gateway: Inside) -> None:
    gateway.ask()
    before = {key for key in scrape(gateway) if key[0] != "starloop_requests_total"}
    for number in range(20):
        gateway.ask({"model": f"nobody-{number}"})
        gateway.ask({"model": f"assistant@{number}.{number}"})
        gateway.call("POST", "/v1/chat/completions", b"no json")
        gateway.call("GET", f"/v1/invented/{number}", None, {"x-starloop-purpose": f"{number}"})
    seen = scrape(gateway)
    assert seen["starloop_requests_total", ROUTE, "-", "-", "4xx"] == 60
    assert {key for key in seen if key[0] != "starloop_requests_total"} == before
    assert len([key for key in seen if key[0] == "starloop_requests_total"]) == 2


def test_requests_under_way_are_seen_while_they_are(gateway: Inside, engine: FakeEngine) -> None:
    engine.delay = 0.3

    async def scenario() -> Numbers:
        asking = [asyncio.create_task(gateway.send("POST", ROUTE, HELLO)) for _ in range(3)]
        await gateway.until(lambda: len(engine.completions()) == 3)
        answer = await gateway.send("GET", "/metrics")
        await asyncio.gather(*asking)
        return numbers(answer.body.decode())

    during, after = gateway.run(scenario()), scrape(gateway)
    outstanding = ("starloop_engine_outstanding_requests", "starter", engine.url)
    assert (during["starloop_requests_under_way",], after["starloop_requests_under_way",]) == (3, 0)
    assert (during[outstanding], after[outstanding]) == (3, 0)


def test_ratings_are_counted_by_stars_and_version(gateway: Inside) -> None:
    inference = identifier(gateway.ask())
    for stars in (5, 5, 2):
        gateway.call("POST", "/v1/feedback", {"inference_id": inference, "rating": stars})
    gateway.call("POST", "/v1/feedback", {"inference_id": inference, "comment": "no stars"})
    gateway.call("POST", "/v1/feedback", {"inference_id": new_id(gateway.gateway.now()), "rating": 1})
    seen = {key[1:]: value for key, value in scrape(gateway).items() if key[0] == "starloop_ratings_total"}
    assert seen == {("assistant", "base", "5"): 2, ("assistant", "base", "2"): 1, ("-", "-", "1"): 1}


def test_the_parts_show_their_state(gateway: Inside, engine: FakeEngine) -> None:
    seen = scrape(gateway)
    assert seen["starloop_workers",] == 1
    assert 0 <= seen["starloop_snapshot_age_seconds",] < 5
    assert seen["starloop_engine_healthy", "starter", engine.url] == 1
    assert seen["starloop_resident_memory_bytes",] > 10_000_000
    assert seen["starloop_cpu_seconds_total",] > 0
    assert (seen["starloop_journal_backlog",], seen["starloop_drain_lag_seconds",]) == (0, 0)
    assert [seen["starloop_journal_rows_set_aside", kind] for kind in ("damaged", "refused")] == [0] * 2
    set_aside(gateway.settings.directory, "journal", 1, b"", "damaged")
    assert scrape(gateway)["starloop_journal_rows_set_aside", "damaged"] == 1


def test_an_engine_that_dies_is_an_ejection(gateway: Inside, engine: FakeEngine) -> None:
    gateway.ask()
    engine.stop()
    try:
        gateway.ask()
        gateway.ask()
        seen = scrape(gateway)
        assert seen["starloop_engine_ejections_total", "starter", engine.url] == 1
        assert seen["starloop_engine_healthy", "starter", engine.url] == 0
    finally:
        engine.start()


def test_captures_that_fail_are_counted(full: Inside) -> None:
    full.ask()
    full.ask(STREAM)
    assert scrape(full)["starloop_captures_failed_total",] == 2


def test_a_backlog_is_seen_while_the_database_is_away(gateway: Inside) -> None:
    gateway.run(asyncio.to_thread(gateway.gateway.drainer.stop))
    for _ in range(3):
        gateway.ask()
    seen = scrape(gateway)
    assert seen["starloop_journal_backlog",] == 3
    assert seen["starloop_drain_lag_seconds",] > 0


def test_figures_go_on_after_a_moment_without_file_descriptors(
    gateway: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def unreadable(_: object) -> None:
        tried.append(1)
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as moment:
        moment.setattr("psutil.Process.memory_info", unreadable)
        gateway.wait_for(lambda: bool(tried))
    gateway.run(asyncio.to_thread(gateway.gateway.drainer.stop))
    gateway.ask()
    gateway.eventually(lambda: scrape(gateway)["starloop_journal_backlog",] == 1)


def test_a_password_in_an_engines_address_is_not_shown(engine: FakeEngine, data: Path) -> None:
    url = engine.url.replace("http://", "http://me:secret@")
    with inside(settings_for(data, [url])) as gateway:
        text = gateway.call("GET", "/metrics").body.decode()
    assert engine.url in text and "secret" not in text


def test_any_key_may_scrape_and_nobody_without_one(gateway: Inside) -> None:
    secret = make_key(gateway, "feedback")
    assert gateway.call("GET", "/metrics").status == 401
    assert scrape(gateway, bearing(secret))["starloop_workers",] == 1


def test_prometheus_scrapes_with_the_example_in_deploy(gateway: Inside) -> None:
    (job,) = yaml.safe_load(EXAMPLE.read_text())["scrape_configs"]
    known = {"job_name", "metrics_path", "scrape_interval", "authorization", "static_configs"}
    (targets,) = [static["targets"] for static in job["static_configs"]]
    secret = make_key(gateway, "feedback")
    sent = {"authorization": f"{job['authorization']['type']} {secret}"}

    assert set(job) == known and set(job["authorization"]) == {"type", "credentials_file"}
    assert targets == [f"{Server().host}:{Server().port}"]
    assert gateway.call("GET", job["metrics_path"], None, sent).status == 200


# -- versions


def test_versions_that_are_served_no_more_drop_out(gateway: Inside) -> None:
    kept, gone = (
        add_version(gateway.gateway.database, gateway.settings.directory, state=state)
        for state in ("registered", "registered")
    )
    gateway.gateway.live.refresh()
    for version in (kept, gone):
        gateway.ask({"model": f"assistant@{version}"})
    assert {key[2] for key in scrape(gateway) if key[0] == "starloop_tokens_total"} == {kept, gone}
    with gateway.gateway.database.session() as session:
        mark_version(session, "assistant", gone, "retired")
        session.commit()
    gateway.gateway.live.refresh()
    assert {key[2] for key in scrape(gateway) if key[0] == "starloop_tokens_total"} == {kept}


def test_only_names_of_the_registry_are_shown() -> None:
    route = ModelRoute("assistant", "starter", None, frozenset({"1.0"}), 0, 0.0)
    metrics = Metrics()
    for model, version in (
        ("assistant", "1.0"),
        ("assistant", "base"),
        ("assistant", "0.9"),
        ("gone", "base"),
    ):
        metrics.inference(ROUTE, record(model, version), 200)
    seen = told(metrics, registry=Snapshot({"assistant": route}, {}, False))
    assert {key[1:3] for key in seen if key[0] == "starloop_tokens_total"} == {
        ("assistant", "1.0"),
        ("assistant", "base"),
    }


# -- several workers


def test_every_worker_shows_the_sum_of_all(tmp_path: Path) -> None:
    workers = [Metrics() for _ in range(3)]
    for number, worker in enumerate(workers):
        worker.share(tmp_path)
        for _ in range(number + 1):
            worker.inference(ROUTE, record(latency_ms=20.0 * 10**number), 200)
        worker.series(families.DRAIN_LAG).set(number)
        worker.series(families.ENGINE_HEALTHY, "starter", "http://a").set(number > 0)
        worker.series(families.WORKERS).set(1)
    for worker in workers:
        seen = told(worker)
        assert seen["starloop_requests_total", ROUTE, "assistant", "1.0", "2xx"] == 6
        assert seen["starloop_request_seconds_bucket", "assistant", "1.0", "0.025"] == 1
        assert seen["starloop_request_seconds_bucket", "assistant", "1.0", "0.25"] == 3
        assert seen["starloop_request_seconds_count", "assistant", "1.0"] == 6
        assert math.isclose(seen["starloop_request_seconds_sum", "assistant", "1.0"], 0.02 + 0.4 + 6.0)
        assert seen["starloop_drain_lag_seconds",] == 2
        assert seen["starloop_engine_healthy", "starter", "http://a"] == 0
        assert seen["starloop_workers",] == 3


def test_a_dead_worker_still_counts_and_its_successor_counts_on(tmp_path: Path) -> None:
    living, dying = Metrics(), Metrics()
    for worker in (living, dying):
        worker.share(tmp_path)
        worker.inference(ROUTE, record(), 200)
        worker.under_way.add()
        worker.series(families.WORKERS).set(1)
    dying.close()  # the kernel does so for one that is killed
    seen = told(living)
    assert seen["starloop_requests_total", ROUTE, "assistant", "1.0", "2xx"] == 2
    assert (seen["starloop_requests_under_way",], seen["starloop_workers",]) == (1, 1)
    successor = Metrics()
    successor.share(tmp_path)
    successor.inference(ROUTE, record(), 200)
    seen = told(living)
    assert seen["starloop_requests_total", ROUTE, "assistant", "1.0", "2xx"] == 3
    assert (seen["starloop_requests_under_way",], seen["starloop_workers",]) == (1, 1)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_kill_takes_nothing_that_was_counted(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from server.telemetry import families; from server.telemetry.metrics import Metrics\n"
        f"metrics = Metrics(); metrics.share(Path({str(tmp_path)!r}))\n"
        "for number in range(1, 1_000_000_000):\n"
        "    metrics.captures_failed.add()\n"
        "    if number % 1000 == 0: print(number, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=README.parents[1], text=True
    ) as worker:
        assert worker.stdout is not None
        said = [int(worker.stdout.readline()) for _ in range(20)][-1]
        worker.kill()
    (reading,) = read_all(tmp_path)
    assert not reading.alive
    assert reading.values['["starloop_captures_failed_total"]'][0] >= said


def test_a_file_that_is_half_made_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "7.cells").touch()
    metrics = Metrics()
    metrics.share(tmp_path)
    metrics.captures_failed.add()
    assert told(metrics)["starloop_captures_failed_total",] == 1


def test_without_a_place_to_count_together_a_worker_counts_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    metrics = Metrics()
    metrics.share(tmp_path / "file")
    metrics.captures_failed.add()
    assert told(metrics)["starloop_captures_failed_total",] == 1
    assert "stay with it" in caplog.text


def test_what_finds_no_room_is_told_once_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    cells = Cells()
    for number in range(SIZE // 1000):
        cells.of(f"{number}", 200)[0] += 1.0
    assert len(cells.read().values) < SIZE // 1000
    assert caplog.text.count("no room") == 1


# -- its cost


def test_metrics_cost_a_request_less_than_ten_microseconds(tmp_path: Path) -> None:
    metrics = Metrics()
    metrics.share(tmp_path)
    assert microseconds(report_of(metrics), times=500, rounds=20) < 10

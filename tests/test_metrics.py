"""What /metrics tells, and that the dashboard, the alerts and the runbook name what is really there."""

import asyncio
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import promql_parser
import pytest
import yaml
from asked_shop import AskedShop, ReplicasAtHand
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from prometheus_client.parser import text_string_to_metric_families
from test_api import status_of

from store.keys import KeyStore
from streams.api.board_metrics import HOPS, KINDS_MAX, OTHER
from streams.dead_letters import dead_letter
from streams.filters import BadQuery
from streams.health import Backlog
from streams.latencies import LATELY_S, Latencies

DEPLOY = Path(__file__).parent.parent / "deploy"
RUNBOOK = (DEPLOY.parent / "docs" / "runbook.md").read_text(encoding="utf-8")
DASHBOARD = json.loads((DEPLOY / "grafana" / "freshet.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
EXPRESSIONS = [rule["expr"] for rule in RULES] + [target["expr"] for panel in PANELS for target in panel["targets"]]
OF_PROMETHEUS = {"up", "job", "instance"}  # a metric and labels that the scrape itself adds
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[AskedShop]:
    shop = AskedShop(tmp_path, ReplicasAtHand())
    asyncio.run(shop.api.views.fill())
    yield shop
    shop.vectors.close()


def ask(shop: AskedShop, *paths: str, method: str = "GET", **more: Any) -> httpx.Response:
    async def ask_all() -> httpx.Response:
        async with shop.client() as client:
            return [await client.request(method, path, **more) for path in paths][-1]

    return asyncio.run(ask_all())


def scraped(shop: AskedShop) -> Samples:
    answer = ask(shop, "/metrics")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = text_string_to_metric_families(answer.text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def sample(samples: Samples, name: str, /, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def put_letters(shop: AskedShop, *letters: tuple[str, int, str]) -> None:
    for topic, offset, reason in letters:
        made = dead_letter(topic, 0, offset, key=b"k", value=b"v", headers=(), reason=reason)
        record = SimpleNamespace(topic=made.topic, offset=offset, headers=made.headers, key=made.key, value=made.value)
        shop.api.letters.put(record)


def put_all(shop: AskedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something of everything that there are metrics of."""
    hops = {f"{hop}_{quantile}_s": 0.25 for hop in HOPS for quantile in ("p50", "p99")}
    for role in ("clicks", "index"):
        shop.board.put(status_of(role, time.time(), details=hops | {"lists": 7, "note": "text"}))
    shop.board.put(status_of("learner", time.time(), details={"newest_example_age_s": 5.0}))
    put_letters(shop, ("user-clicks", 1, "unknown 'a'"))
    monkeypatch.setattr(shop.search, "find", find_all)
    ask(shop, "/v1/users/ann/recommendations", "/v1/nothing/here", "/v1/search?q=red")


# --- requests ----------------------------------------------------------------------------------------------------


def test_requests_are_counted_and_timed_by_the_template_of_their_route(shop: AskedShop) -> None:
    ask(
        shop, "/v1/users/ann%2F1/recommendations", "/v1/users/users/x/recommendations", "/v1/products/b/similar?limit=0"
    )
    ask(shop, "/v1/nothing", "/healthz")
    ask(shop, "/healthz", method="BREW")
    samples = scraped(shop)

    def requests(route: str, status: str, method: str = "GET") -> float | None:
        return sample(samples, "freshet_http_requests_total", method=method, route=route, status=status)

    assert requests("/v1/users/{user_id}/recommendations", "200") == 2
    assert requests("/v1/products/{product_id}/similar", "422") == 1
    assert requests("unmatched", "404") == 1
    assert requests("/healthz", "200") == 1
    assert requests("/healthz", "405", "OTHER") == 1
    bucket = {"method": "GET", "route": "/v1/users/{user_id}/recommendations"}
    assert sample(samples, "freshet_http_request_duration_seconds_bucket", le="+Inf", **bucket) == 2
    assert sample(samples, "freshet_lists_answered_total") == 2


def test_the_templates_are_the_paths_of_the_openapi_document(shop: AskedShop) -> None:
    asked = ("/v1/users/a/recommendations", "/v1/users/a", "/v1/products/a/b/similar", "/v1/products/a", "/v1/status")
    ask(shop, *asked, "/healthz", "/v1/dead-letters")
    counted = {dict(labels)["route"] for name, labels in scraped(shop) if name == "freshet_http_requests_total"}
    assert len(counted) == 7
    assert counted <= shop.api.app.openapi()["paths"].keys()


def test_a_request_at_which_the_api_fails_and_one_that_the_guard_refuses_are_counted(
    shop: AskedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(shop.products, "read", fail)
    ask(shop, "/v1/products/b")
    ask(shop, "/healthz", headers={"Host": "evil.example"})
    samples = scraped(shop)
    route = "/v1/products/{product_id}"
    assert sample(samples, "freshet_http_requests_total", method="GET", route=route, status="500") == 1
    assert sample(samples, "freshet_http_requests_total", method="GET", route="unmatched", status="421") == 1


def find_all(query: Any, *_: Any) -> dict[str, Any]:
    """In place of Search.find, which needs the models of a version."""
    if not query.q and not getattr(query, "picture", None):
        raise BadQuery("the query is empty")
    return {"items": []}


def test_searches_are_timed_by_what_was_searched_by_and_failed_ones_are_not(
    shop: AskedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop.search, "find", find_all)
    for query in ({"q": "red"}, {"q": "red", "picture": "AA=="}, {"picture": "AA=="}, {}):
        code = ask(shop, "/v1/search", method="POST", json=query).status_code
        assert code == (200 if query else 422)
    samples = scraped(shop)
    for kind in ("words", "picture", "both"):
        assert sample(samples, "freshet_search_duration_seconds_count", kind=kind, mode="hybrid") == 1


def test_a_stream_is_open_until_it_ends_and_is_timed_until_it_begins(shop: AskedShop) -> None:
    routes = APIRouter()

    @routes.get("/stream")
    async def stream() -> StreamingResponse:
        async def events() -> Any:
            seen.append(sample(_samples(shop), "freshet_http_open_streams"))
            yield b"data: 1\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    shop.api.app.include_router(routes)
    seen: list[float | None] = []
    assert ask(shop, "/stream").text == "data: 1\n\n"
    assert seen == [1.0]
    samples = scraped(shop)
    assert sample(samples, "freshet_http_open_streams") == 0
    assert sample(samples, "freshet_http_request_duration_seconds_count", method="GET", route="/stream") == 1


def _samples(shop: AskedShop) -> Samples:
    families = text_string_to_metric_families(shop.api.metrics.render().decode())
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def test_a_scrape_needs_a_key_that_may_read_once_there_are_keys(shop: AskedShop) -> None:
    told = KeyStore(shop.products.engine).make("prometheus", ["read"])[1]
    assert ask(shop, "/metrics").status_code == 401
    assert ask(shop, "/metrics", headers={"Authorization": f"Bearer {told}"}).status_code == 200


# --- roles, workers, letters -------------------------------------------------------------------------------------


def test_what_roles_and_workers_say_is_told_and_the_brokers_word_on_what_waits(shop: AskedShop) -> None:
    now = time.time()
    shop.board.put(status_of("clicks", now, details={"lists": 7, "click_to_list_p99_s": 0.5, "kind": "x"}, lag=1))
    shop.board.put(status_of("clicks", now - 60, worker_id="gone", events=4, details={"click_to_list_p99_s": 9.0}))
    shop.board.put(status_of("index", now, state="waiting", reason="Qdrant is away"))
    shop.board.put(status_of("learner", now, details={"newest_example_age_s": 5.0}))
    shop.backlogs = {"clicks": Backlog(40, now - 30)}
    samples = scraped(shop)
    worker = {"role": "clicks", "worker": "w"}
    gone = {"role": "clicks", "worker": "gone"}
    for name, labels, value in (
        ("freshet_role_up", {"role": "clicks"}, 1),
        ("freshet_role_up", {"role": "encode"}, 0),
        ("freshet_role_workers", {"role": "clicks"}, 1),
        ("freshet_role_running", {"role": "index"}, 0),
        ("freshet_role_running", {"role": "clicks"}, 1),
        ("freshet_role_lag_events", {"role": "clicks"}, 40),
        ("freshet_worker_up", worker, 1),
        ("freshet_worker_up", gone, 0),
        ("freshet_worker_events_total", gone, 4),
        ("freshet_worker_events_per_second", worker, 2),
        ("freshet_worker_events_per_second", gone, 0),
        ("freshet_worker_lag_events", worker, 1),
        ("freshet_worker_dead_letters_total", worker, 1),
        ("freshet_lists_published_total", {"worker": "w"}, 7),
        ("freshet_worker_detail", {**worker, "name": "lists"}, 7),
        ("freshet_click_to_list_seconds", {"worker": "w", "quantile": "0.99"}, 0.5),
    ):
        assert sample(samples, name, **labels) == value, (name, labels)
    oldest_s = sample(samples, "freshet_role_oldest_unprocessed_seconds", role="clicks")
    age_s = sample(samples, "freshet_factors_age_seconds")
    assert oldest_s == pytest.approx(30, abs=5)
    assert age_s == pytest.approx(5, abs=5)
    assert sample(samples, "freshet_worker_detail", **worker, name="kind") is None, "it is no number"
    assert sample(samples, "freshet_click_to_list_seconds", worker="gone", quantile="0.99") is None, "it is silent"


def test_open_dead_letters_are_told_by_reason_and_rare_reasons_together(shop: AskedShop) -> None:
    put_letters(shop, ("user-clicks", 1, "unknown 'a'"), ("user-clicks", 2, "unknown 'b'"))
    put_letters(shop, *(("catalog-updates", n, f"rule {'x' * (n + 1)}") for n in range(KINDS_MAX + 1)))
    samples = scraped(shop)
    assert sample(samples, "freshet_dead_letters_open", topic="user-clicks", reason="unknown '…'") == 2
    assert sample(samples, "freshet_dead_letters_open", topic="catalog-updates", reason=OTHER) == 2
    assert sum(name == "freshet_dead_letters_open" for name, _ in samples) == KINDS_MAX + 1


def test_quantiles_are_of_what_ended_lately(monkeypatch: pytest.MonkeyPatch) -> None:
    latencies = Latencies()
    assert latencies.details("hop") == {}
    latencies.add([100.0 - n for n in range(1, 102)], 100.0)
    latencies.add([200.0], 100.0)  # a clock that is ahead
    monkeypatch.setattr(time, "time", lambda: 100.0 + LATELY_S)
    assert latencies.details("hop") == {"hop_p50_s": 50.5, "hop_p99_s": pytest.approx(99.99)}
    monkeypatch.setattr(time, "time", lambda: 101.0 + LATELY_S)
    assert latencies.details("hop") == {}


# --- names -------------------------------------------------------------------------------------------------------


def test_every_metric_has_help_and_a_name_by_the_conventions(shop: AskedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    put_all(shop, monkeypatch)
    families = list(text_string_to_metric_families(ask(shop, "/metrics").text))
    assert len(families) > 20
    for family in families:
        assert family.documentation.endswith("."), family.name
        assert family.name.startswith(("freshet_", "process_")), family.name
        assert not re.search(r"_(ms|milliseconds|minutes|percent|kb|mb)(_|$)", family.name), family.name
        is_counter = all(one.name.endswith("_total") for one in family.samples)
        assert is_counter == (family.type == "counter") or not family.samples, family.name


def names_in(expression: str) -> tuple[set[str], set[str]]:
    """The metrics that an expression of PromQL names, and the labels. Raises ValueError if it is none."""
    metrics: set[str] = set()
    labels: set[str] = set()

    def note(node: Any) -> None:
        selector = getattr(node, "vector_selector", node)  # of a range
        if isinstance(selector, promql_parser.VectorSelector):
            metrics.add(selector.name or "")
            labels.update(matcher.name for matcher in selector.matchers.matchers)
        modifier = getattr(node, "modifier", None)
        labels.update(getattr(getattr(modifier, "matching", None) or modifier, "labels", None) or ())

    promql_parser.walk(promql_parser.parse(expression), note)
    return metrics, labels


def test_the_names_in_an_expression_are_found() -> None:
    expression = 'sum by (le, role) (rate(a_total{x=~"5..", y!="b_c"}[5m])) / max(d) > 0.5 and on (z) f_g'
    assert names_in(expression) == ({"a_total", "d", "f_g"}, {"le", "role", "x", "y", "z"})
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        names_in("sum(d")


def test_every_metric_and_label_that_dashboard_and_alerts_name_exists(
    shop: AskedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_all(shop, monkeypatch)
    samples = scraped(shop)
    labels_of: dict[str, set[str]] = {}
    for name, labels in samples:
        labels_of.setdefault(name, set()).update(dict(labels))
    assert len(EXPRESSIONS) > 30
    for expression in EXPRESSIONS:
        metrics, labels = names_in(expression)
        assert metrics, expression
        assert metrics - OF_PROMETHEUS <= labels_of.keys(), expression
        known = set().union(*(labels_of.get(name, set()) for name in metrics))
        assert labels - OF_PROMETHEUS <= known, expression


def test_every_alert_says_how_urgent_it_is_and_has_its_place_in_the_runbook() -> None:
    headings = re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE)
    assert [rule["alert"] for rule in RULES] == headings
    for rule in RULES:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert re.fullmatch(r"\d+[smh]", rule["for"])
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= set(DASHBOARD)
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, f"{panel['title']} lies over another panel"
        assert all(0 <= x < 24 for x, _ in cells)
        taken |= cells


def test_the_example_scrapes_what_the_api_serves_and_promtool_where_it_is_there_takes_it(tmp_path: Path) -> None:
    example = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    (scrape,) = example["scrape_configs"]
    assert (scrape["job_name"], scrape["metrics_path"], example["rule_files"]) == (
        "freshet",
        "/metrics",
        ["alerts.yml"],
    )
    if promtool := shutil.which("promtool"):
        shutil.copytree(DEPLOY / "prometheus", tmp_path / "prometheus")
        subprocess.run([promtool, "check", "config", "prometheus.yml"], cwd=tmp_path / "prometheus", check=True)

"""What operators see of a server: alive, ready, and the metrics that the document lists."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from shotstream_rt.serve.client import Client
from shotstream_rt.serve.server import Server

from ..patience import PATIENCE_S, wait_for

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/operate.md").read_text("utf-8")
TABLE = dict(re.findall(r"^\| `(\w+)` \| (gauge|counter|histogram) \|", DOCUMENT, re.MULTILINE))
"""The metrics of the document: name and type."""

CAT = "Wide shot: a red cat walks right on a beach."


class Scraped:
    """The metrics of a server, as Prometheus reads them."""

    def __init__(self, http: httpx.Client) -> None:
        answer = http.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        self.text = answer.text
        self.families = list(text_string_to_metric_families(answer.text))

    def types(self) -> dict[str, str]:
        """Name and type of each; what the library adds about itself is left out."""
        names = {
            f"{one.name}_total" if one.type == "counter" else one.name: one.type
            for one in self.families
        }
        return {name: kind for name, kind in names.items() if not name.endswith("_created")}

    def value(self, sample: str, **labels: str) -> float:
        """Return one value."""
        (found,) = [
            one.value
            for family in self.families
            for one in family.samples
            if one.name == sample and one.labels == labels
        ]
        return float(found)


def test_the_document_lists_the_metrics_that_there_are(http: httpx.Client) -> None:
    found = Scraped(http).types()
    assert sorted(TABLE.items()) == sorted(found.items())
    assert len(TABLE) > 20


def test_what_happens_is_counted(server: Server, url: str, http: httpx.Client) -> None:
    def value(sample: str, **labels: str) -> float:
        return Scraped(http).value(f"shotstream_{sample}", **labels)

    session = http.post("/v1/sessions", json={}).json()["id"]
    with Client(url, session=session) as client:
        assert value("sessions", state="waiting") >= 1
        client.outcome(client.cut(CAT))
        seen = list(itertools.islice(client.frames(timeout_s=PATIENCE_S), 30))
        assert value("viewers") == 1
        assert value("sessions", state="playing") == 1
        assert value("frames_total") >= len(seen)
        assert value("asks_total", kind="cut") == 1
        assert value("ask_outcomes_total", kind="cut", state="applied") == 1
        assert value("ask_to_applied_seconds_count", kind="cut") == 1
        assert value("time_to_first_frame_seconds_count") == 1
        for position in ("0", "1"):
            assert value("chunk_seconds_count", position=position) >= 1
            assert value("chunk_seconds_sum", position=position) > 0
        now = Scraped(http)
        worst, mean = (now.value("shotstream_play_ratio", over=over) for over in ("worst", "mean"))
        assert 0 <= worst <= mean <= 1
        client.check("a red cat")
        assert value("asks_total", kind="check") == 1
    wait_for(lambda: value("viewers") == 0)
    assert value("viewers_joined_total") == 1
    memory = Scraped(http).value("process_resident_memory_bytes")
    assert memory > 50 * 2**20
    http.delete(f"/v1/sessions/{session}")


def test_nothing_grows_with_films_and_strange_addresses(
    server: Server, url: str, http: httpx.Client
) -> None:
    def film() -> None:
        session = http.post("/v1/sessions", json={}).json()["id"]
        with Client(url, session=session) as client:
            client.outcome(client.cut(CAT))
            http.get(f"/v1/sessions/{session}")
            http.get(f"/strange/{session}")
            http.request("STRANGE", f"/v1/sessions/{session}")
        http.delete(f"/v1/sessions/{session}")

    def series() -> set[str]:
        return {line.rpartition(" ")[0] for line in Scraped(http).text.splitlines()}

    film()
    Scraped(http)  # which is an answer of its own
    before = series()
    for _ in range(3):
        film()
    assert series() == before


def test_alive_and_ready_need_no_token_and_metrics_do(server: Server, http: httpx.Client) -> None:
    assert httpx.get(f"{server.address}/healthz").json() == {"status": "ok"}
    wait_for(lambda: httpx.get(f"{server.address}/readyz").status_code == 200)
    assert httpx.get(f"{server.address}/metrics").status_code == 401
    watching = {"Authorization": f"Bearer {server.tokens.viewer}"}
    assert httpx.get(f"{server.address}/metrics", headers=watching).status_code == 200
    server.films.ending = True
    try:
        answer = httpx.get(f"{server.address}/readyz")
        assert (answer.status_code, answer.json()["error"]["retryable"]) == (503, True)
        assert Scraped(http).value("shotstream_ready") == 0
    finally:
        server.films.ending = False
    assert httpx.get(f"{server.address}/healthz").status_code == 200


def example(key: str) -> Any:
    """Return what stands under a key of the one example in YAML that has it."""
    blocks = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    (found,) = [loaded[key] for loaded in map(yaml.safe_load, blocks) if key in loaded]
    return found


RULES = {rule["alert"]: rule for group in example("groups") for rule in group["rules"]}
PANELS: dict[str, str] = example("panels")


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_alerts_have_what_a_rule_has(rule: dict[str, Any]) -> None:
    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"\d+[smh]", rule["for"])
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]


@pytest.mark.parametrize("query", [*PANELS.values(), *(rule["expr"] for rule in RULES.values())])
def test_queries_are_about_metrics_that_there_are(query: str) -> None:
    names = re.findall(r"\b(?:shotstream|process)_\w+", query)
    # Prometheus stores a histogram under three names.
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in names} <= set(TABLE)
    assert names


@pytest.mark.parametrize("query", [*PANELS.values(), *(rule["expr"] for rule in RULES.values())])
def test_queries_are_well_formed(query: str) -> None:
    parser: Any = pytest.importorskip("promql_parser", reason="promql-parser is not installed")
    parser.parse(query)

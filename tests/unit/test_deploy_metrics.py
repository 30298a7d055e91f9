"""Alert rules and dashboard ask only for metrics, labels and values that a worker exports."""

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_infer.config import BUILTIN_MODELS, BUILTIN_STREAMS
from stream_infer.config_loading import load_settings
from stream_infer.metrics import Metrics
from tests.unit.quality_records import show_quality

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
CONFIG: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
ALERT_TESTS = Path(__file__).parent / "alerts_test.yaml"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "stream-infer.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES: dict[str, dict[str, Any]] = {each["name"]: each for each in DASHBOARD["templating"]["list"]}

EXPRESSIONS: dict[str, str] = {rule["alert"]: rule["expr"] for rule in ALERTS} | {
    f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]
}
each_expression = pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
OF_THE_SCRAPE = {"job", "instance"}
NAME = re.compile(r"\b(?:stream_infer|process)_\w+")
SELECTOR = re.compile(r"((?:stream_infer|process)_\w+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")


def exported() -> dict[str, dict[str, set[str]]]:
    """Return the values of each label of each sample that a worker exports."""
    metrics = Metrics(BUILTIN_STREAMS, BUILTIN_MODELS)
    metrics.read("model_info", lambda: {("sentiment", "r1", "int8", "cpu"): 1})
    metrics.read("model_agreement_ratio", lambda: {("sentiment",): 0.99})
    show_quality(metrics)
    found: dict[str, dict[str, set[str]]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


SAMPLES = exported()
LABELS = {label for labels in SAMPLES.values() for label in labels} | OF_THE_SCRAPE


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607 - our own files, wherever it is installed
    assert 0 == done.returncode, done.stdout + done.stderr


def is_known(name: str) -> bool:
    """Tell whether a text may use the name: a sample's, or a histogram's as a whole."""
    return name in SAMPLES or f"{name}_bucket" in SAMPLES


@each_expression
def test_expressions_ask_for_what_is_exported(expression: str) -> None:
    names = NAME.findall(expression)
    assert names
    assert set(names) <= set(SAMPLES)


@each_expression
def test_expressions_select_by_labels_and_values_that_exist(expression: str) -> None:
    for name, matchers in SELECTOR.findall(expression):
        for label, _, value in MATCHER.findall(matchers):
            assert label in SAMPLES[name].keys() | OF_THE_SCRAPE, f"{name} has no {label}"
            assert value.startswith("$") or value in SAMPLES[name][label], f"{name} has no {label} {value}"
    for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
        assert set(labels.split(", ")) <= LABELS


def test_the_checks_would_find_a_wrong_name_label_or_value() -> None:
    """They rest on patterns, so patterns that match nothing must not pass for agreement."""
    assert ["stream_infer_no_total"] == NAME.findall("rate(stream_infer_no_total[5m])")
    assert not is_known("stream_infer_no_total")
    ((name, matchers),) = SELECTOR.findall('x(stream_infer_no_total{a="b", c!~"d"}[5m])')
    assert "stream_infer_no_total" == name
    assert [("a", "=", "b"), ("c", "!~", "d")] == MATCHER.findall(matchers)
    assert sum(len(SELECTOR.findall(each)) for each in EXPRESSIONS.values()) > len(PANELS)


def test_alerts_have_different_names() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_alerts_say_how_bad_it_is_and_what_to_look_at(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert {"summary", "description"} == set(rule["annotations"])
    text = " ".join(rule["annotations"].values())
    assert all(is_known(name) for name in NAME.findall(text))
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= LABELS


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_is_tested_to_fire_and_to_stay_silent(rule: dict[str, Any]) -> None:
    tests = yaml.safe_load(ALERT_TESTS.read_text(encoding="utf-8"))["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"] if case["alertname"] == rule["alert"]]
    assert {True, False} == {bool(case.get("exp_alerts")) for case in cases}


def test_prometheus_looks_where_the_workers_are() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    (scrape,) = CONFIG["scrape_configs"]
    (discovery,) = scrape["dns_sd_configs"]
    assert "serve" in compose["services"][discovery["names"][0]]["command"]
    assert load_settings(DEPLOY / "stream-infer.toml").web.port == discovery["port"]
    assert all((PROMETHEUS / name).is_file() for name in CONFIG["rule_files"])


def test_panels_say_what_they_show() -> None:
    titles = [panel["title"] for panel in PANELS]
    assert len(titles) == len(set(titles))
    assert all(panel["fieldConfig"]["defaults"]["unit"] for panel in PANELS)


def test_panels_have_a_place_of_their_own() -> None:
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    for one, other in combinations([panel["gridPos"] for panel in everything], 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        is_above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert is_beside or is_above
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in everything)


def test_the_dashboard_uses_the_variables_that_it_defines() -> None:
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(DASHBOARD["panels"])))
    assert used == set(VARIABLES)
    for name, variable in VARIABLES.items():
        if variable["type"] == "query":
            (metric,) = re.findall(r"label_values\((\w+), ", variable["definition"])
            assert name in SAMPLES[metric].keys() | OF_THE_SCRAPE


@needs_promtool
def test_prometheus_accepts_its_settings_and_rules() -> None:
    promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))


@needs_promtool
def test_alerts_fire_when_they_should() -> None:
    promtool("test", "rules", str(ALERT_TESTS))


@needs_promtool
def test_prometheus_understands_the_dashboard(tmp_path: Path) -> None:
    """Each expression of a panel is given to it as a recording rule."""
    filled = [
        re.sub(r"\$\{?\w+\}?", lambda name: "5m" if "interval" in name[0] else ".*", target["expr"])
        for panel in PANELS
        for target in panel["targets"]
    ]
    rules = [{"record": f"panel:{place}", "expr": expression} for place, expression in enumerate(filled)]
    path = tmp_path / "panels.yaml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    promtool("check", "rules", str(path))

"""Rules and dashboard: every expression parses and names metrics and labels that exist, and no metric is left out."""

import re
import shutil
import subprocess
from pathlib import Path

import promql_parser
import pytest

from proxy.observe.metrics import NAMES
from tests.config import files

ROOT = files.CONFIG.parent
PARTS = {"_bucket": {"le"}, "_sum": set(), "_count": set()}
TARGET = {"namespace", "job", "instance"}
"""Labels that Prometheus adds; the namespace on Kubernetes alone."""
RUNBOOKS = "https://runbooks.invalid/"
"""What whoever loads the rules puts an address of their own for."""


def labels_of(name):
    """The labels of a series by its name; KeyError for one that we do not have."""
    if name == "up":
        return TARGET
    family, part = re.fullmatch(r"(.*?)(_bucket|_sum|_count)?", name).groups()
    metric = NAMES[family]
    assert (metric.kind == "histogram") == (part is not None), name
    return TARGET | set(metric.labels) | PARTS.get(part, set())


def parsed(expression):
    """An expression's tree, with Grafana's variables as it fills them in."""
    for variable, value in {"$__rate_interval": "5m", "$__range": "3h"}.items():
        expression = expression.replace(variable, value)
    return promql_parser.parse(re.sub(r"\$[a-z]+", ".*", expression))


def nodes(tree):
    found = []
    promql_parser.walk(tree, lambda node: bool(found.append(node)) or True)
    return found


def selectors(expression):
    return [node for node in nodes(parsed(expression)) if isinstance(node, promql_parser.VectorSelector)]


def families(expression):
    return {re.sub("_(bucket|sum|count)$", "", selector.name) for selector in selectors(expression)}


RULES = {rule["alert"]: rule for group in files.rules()["groups"] for rule in group["rules"]}
PANELS = {panel["title"]: panel for panel in files.dashboard()["panels"] if panel["type"] != "row"}
VARIABLES = {v["name"]: v for v in files.dashboard()["templating"]["list"]}
QUERIES = {
    name: re.fullmatch(r"label_values\((.*), (\w+)\)", v["definition"]).groups()
    for name, v in VARIABLES.items()
    if v["type"] == "query"
}
EXPRESSIONS = [
    *((name, rule["expr"]) for name, rule in RULES.items()),
    *((title, target["expr"]) for title, panel in PANELS.items() for target in panel["targets"]),
    *((name, expression) for name, (expression, _) in QUERIES.items()),
]


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_an_expression_names_what_exists(where, expression):
    for selector in selectors(expression):
        known = labels_of(selector.name)
        assert {matcher.name for matcher in selector.matchers.matchers} <= known
    for node in nodes(parsed(expression)):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            inner = set.intersection(
                *(labels_of(s.name) for s in nodes(node) if isinstance(s, promql_parser.VectorSelector))
            )
            assert set(node.modifier.labels) <= inner
        if isinstance(node, promql_parser.Call) and node.func.name in ("rate", "increase"):
            (counted,) = (s.name for s in nodes(node) if isinstance(s, promql_parser.VectorSelector))
            assert counted.endswith(("_total", *PARTS))


def test_every_metric_is_on_the_dashboard():
    shown = {family for panel in PANELS.values() for target in panel["targets"] for family in families(target["expr"])}
    assert shown == set(NAMES)


def test_quantiles_keep_the_bounds_of_their_buckets():
    for _, expression in EXPRESSIONS:
        for node in nodes(parsed(expression)):
            if isinstance(node, promql_parser.Call) and node.func.name == "histogram_quantile":
                assert "le" in node.args[1].modifier.labels


def test_an_alert_says_what_is_wrong():
    for rule in RULES.values():
        assert rule["labels"]["severity"] in ("critical", "warning")
        said = rule["annotations"]
        assert set(said) == {"summary", "description", "runbook_url"}
        used = set(re.findall(r"\$labels\.(\w+)", "".join(said.values())))
        grouped = [n.modifier.labels for n in nodes(parsed(rule["expr"])) if isinstance(n, promql_parser.AggregateExpr)]
        assert used <= (set.union(*map(set, grouped)) if grouped else TARGET)


def test_two_installations_are_told_apart():
    for name, rule in RULES.items():
        for node in nodes(parsed(rule["expr"])):
            if isinstance(node, promql_parser.AggregateExpr):
                assert {"namespace", "job"} <= set(node.modifier.labels), name
        told = rule["annotations"]["description"]
        assert name == "StatecarAbsent" or "{{ $labels.job }}{{ with $labels.namespace }} in {{ . }}{{ end }}" in told


def test_an_alert_leads_to_what_to_do():
    for rule in RULES.values():
        page, anchor = re.fullmatch(f"{RUNBOOKS}(.*)#(.*)", rule["annotations"]["runbook_url"]).groups()
        headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text("utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_the_address_of_what_to_do_is_put_in_with_the_one_line_that_the_file_tells(tmp_path):
    text = (files.CONFIG / "prometheus-rules.yaml").read_text("utf-8")
    copy = tmp_path / "prometheus-rules.yaml"
    copy.write_text(text, "utf-8")
    (line,) = re.findall(r"^# +(sed .*)$", text, re.MULTILINE)
    subprocess.run(line, shell=True, check=True, cwd=tmp_path)
    links = re.findall(r"runbook_url: (.*)", copy.read_text("utf-8"))
    assert len(links) == len(RULES)
    assert {link.split("/docs/")[0] for link in links} == {"https://git.example.com/team/statecar/blob/main"}


def test_a_threshold_of_a_quantile_is_one_that_buckets_can_tell():
    for name, rule in RULES.items():
        top = parsed(rule["expr"])
        if isinstance(top, promql_parser.BinaryExpr) and isinstance(top.lhs, promql_parser.Call):
            (selector,) = (n for n in nodes(top) if isinstance(n, promql_parser.VectorSelector))
            bounds = NAMES[selector.name.removesuffix("_bucket")].buckets
            assert top.rhs.val in bounds[:-1], name


def test_every_panel_explains_itself_and_lies_in_its_place():
    board = files.dashboard()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    taken = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24
        taken |= cells
    for title, panel in PANELS.items():
        assert len(panel["description"]) > 20, title
        assert panel["fieldConfig"]["defaults"]["unit"], title
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]), title


def test_every_panel_follows_the_variables():
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert VARIABLES["datasource"]["type"] == "datasource"
    for title, panel in PANELS.items():
        for target in panel["targets"]:
            assert target["datasource"] == source
            for variable in re.findall(r"\$(\w+)", target["expr"]):
                assert variable.startswith("__") or variable in VARIABLES, title
            for selector in selectors(target["expr"]):
                given = {matcher.name for matcher in selector.matchers.matchers}
                assert given >= TARGET | ({"model"} & labels_of(selector.name)), title
    for name, (expression, label) in QUERIES.items():
        assert label == name and label in labels_of(selectors(expression)[0].name)
        assert VARIABLES[name]["allValue"] == ".*"  # a turn that no upstream answered has no model


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on PATH (Debian: prometheus)")
def test_alerts_fire_when_they_should_and_else_not():
    cases = Path(__file__).with_name("alerts.yaml")
    done = subprocess.run(["promtool", "test", "rules", str(cases)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

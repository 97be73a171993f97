"""The documents name what exists. ``python -m tests.test_docs`` writes the table of metrics."""

import logging
import re
import subprocess
import sys
import textwrap
from dataclasses import fields
from pathlib import Path

import pytest
import redis
import yaml

from proxy.access import keyfile
from proxy.app import create_app
from proxy.observe.metrics import NAMES
from proxy.settings import Settings
from proxy.state.embedded import Embedded
from tests.backend import serving
from tests.callers import Caller
from tests.routes.conftest import alive

ROOT = Path(__file__).parent.parent
OPERATIONS = ROOT / "docs" / "operations"
ADRS = ROOT / "docs" / "adr"
MONITORING = OPERATIONS / "monitoring.md"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "helm" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
TABLE = re.compile(r"(<!-- metrics: [^\n]*-->\n).*?(<!-- end of metrics -->)", re.DOTALL)
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
FOREIGN = {
    "--yes",
    "--tenant-key",
    "--tenant-id",
    "--pipe",
    "--user",
    "--pass",
    "--tls",
    "--cluster",
    "--cluster-from",
    "--cluster-copy",
    "--fix",
    "--help",
    "--time",
    "--now",
    "--from-file",
    "--mount",
    "--target",
    "--property",
    "--value",
    "--replicas",
}
"""Flags that are no options of serve and that the pages for operators name."""


def page_id(path):
    return str(path.relative_to(ROOT))


def prose(path):
    """A page without its code blocks."""
    return FENCE.sub("", path.read_text("utf-8"))


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    found = []
    for heading in re.findall(r"^#+ +(.+?) *$", prose(path), re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return found


def spans(path):
    """What stands in backticks on a page, a piece a span."""
    return CODE.findall(prose(path))


def metrics_table():
    """Every metric as a Markdown table: name, labels, type, meaning."""
    rows = ["| metric | labels | type | meaning |", "|---|---|---|---|"]
    for name, metric in NAMES.items():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{name}` | {labels} | {metric.kind} | {metric.meaning} |")
    return "\n".join(rows) + "\n"


def written(text):
    return TABLE.sub(lambda marks: f"{marks[1]}\n{metrics_table()}\n{marks[2]}", text)


def test_the_index_of_decisions_names_them_all():
    linked = re.findall(r"^- \[(\d{4})\]\((\1-[a-z0-9-]+\.md)\)", (ADRS / "README.md").read_text("utf-8"), re.MULTILINE)
    assert [name for _, name in linked] == sorted(path.name for path in ADRS.glob("0*.md"))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page):
    broken = []
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_for_operators_is_in_their_index():
    linked = re.findall(r"\]\((\w+\.md)\)", (OPERATIONS / "README.md").read_text("utf-8"))
    assert sorted([*linked, "README.md"]) == sorted(path.name for path in OPERATIONS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_option_that_is_named_exists(page):
    text = page.read_text("utf-8")
    variables = {f"STATECAR_{field.name.upper()}" for field in fields(Settings)}
    assert {name for name in re.findall(r"STATECAR_[A-Z_]+(?<!_)\b", text) if "_TEST_" not in name} <= variables
    if page.parent != OPERATIONS:
        return
    flags = {f"--{field.name.replace('_', '-')}" for field in fields(Settings)}
    flags |= {flag.replace("--", "--no-", 1) for flag in flags} | FOREIGN
    named = {flag for span in spans(page) for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span)}
    called = re.findall(r"statecar (?:serve|doctor)\b[^\n]*", text)
    named |= {flag for line in called for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", line)} - {"--model"}
    assert named <= flags


def test_what_pages_for_operators_show_in_yaml_is_taken(tmp_path):
    key = tmp_path / "key"
    key.write_text(f"{'k' * 32}\n")
    names, taken = {field.name for field in fields(Settings)}, set()
    for page in sorted(OPERATIONS.glob("*.md")):
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            shown = re.sub(r"@/run/[\w/-]+", f"@{key}", block)
            found = yaml.safe_load(shown).keys()
            if found == {"keys", "tenants"}:
                assert len(keyfile.parse(shown).entries) == 2
            elif found <= names:
                (tmp_path / "config.yaml").write_text(shown)
                more = [] if "upstreams" in found else ["--upstream=demo"]
                if "access_rules" in found:
                    more += ["--principal=header:x-user", "--attribute=teams=header:x-t,roles=header:x-r"]
                Settings.resolve([f"--config={tmp_path / 'config.yaml'}", *more], {})
                taken |= found
    assert taken >= {"upstreams", "access_rules", "jwt_issuer", "tenant_stored_bytes", "encryption_key"}


def test_the_table_of_metrics_is_current():
    assert MONITORING.read_text("utf-8") == written(MONITORING.read_text("utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_metric_that_is_named_exists_with_its_labels(page):
    for name, labels in re.findall(r"\b(statecar_[a-z_]+)(?:\{([^}]*)\})?", page.read_text("utf-8")):
        metric = NAMES.get(name) or NAMES[re.sub(r"_(bucket|sum|count)$", "", name)]
        assert set(re.findall(r"(\w+)(?==|~)", labels)) <= set(metric.labels), name


async def test_every_field_of_the_access_line_is_told(valkey, backend, caplog):
    caplog.set_level(logging.DEBUG, "statecar.access")
    app = create_app(
        Settings.resolve([f"--store={valkey.url}", f"--upstream={backend.url}", "--upstream-kind=vllm"], {})
    )
    async with alive(app), serving(app) as url, Caller(url) as caller:
        first = await caller.create(tools=[{"type": "web_search"}])
        await caller.events(previous_response_id=first["id"])
        await caller.create(conversation=await caller.conversation())
        await caller.http.get("/models")
        await caller.http.get(f"/responses/{first['id']}")
    [table] = re.findall(r"^\| field \| meaning \|\n((?:\|.*\n)+)", MONITORING.read_text("utf-8"), re.MULTILINE)
    told = {name for row in table.splitlines()[1:] for name in CODE.findall(row.split("|")[1])}
    seen = {name for record in caplog.records for name in getattr(record, "fields", {})}
    assert {"response", "store_ms", "dropped_tools", "passed_on"} <= seen <= told | {"request_id"}


def test_every_value_of_the_chart_that_is_named_exists():
    values = yaml.safe_load((ROOT / "helm" / "values.yaml").read_text("utf-8"))
    named = {span for page in OPERATIONS.glob("*.md") for span in spans(page)}
    paths = [span.split(".") for span in named if re.fullmatch(r"[a-zA-Z]+(\.[a-zA-Z]+)+", span)]
    paths = [path for path in paths if isinstance(values.get(path[0]), dict) and path[-1] not in ("log", "conf")]
    assert paths
    for path in paths:
        node = values
        for key in path:
            assert isinstance(node, dict) and key in node, ".".join(path)
            node = node[key]


def test_every_alert_has_a_section_and_every_section_an_alert():
    rules = yaml.safe_load((ROOT / "config" / "prometheus-rules.yaml").read_text("utf-8"))
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    told = re.findall(r"^### (Statecar\w+)$", (OPERATIONS / "failures.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(told) == sorted(rule["alert"] for rule in alerts)
    for rule in alerts:
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert anchor in anchors(ROOT / page.removeprefix("https://runbooks.invalid/"))


def test_the_data_of_the_embedded_store_goes_to_another_one_as_the_page_says(tmp_path, valkey):
    page = (OPERATIONS / "upgrades.md").read_text("utf-8")
    (script,) = re.findall(r"^ *```python\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)
    store = Embedded(tmp_path / "data")
    try:
        with redis.Redis(unix_socket_path=store.start().removeprefix("unix://")) as old:
            old.set("sc:before", "1", ex=1000)
            command = [sys.executable, "-", str(tmp_path / "data")]
            done = subprocess.run(command, input=textwrap.dedent(script), capture_output=True, text=True, check=True)
            old.set("sc:after", "2")
    finally:
        store.stop()
    assert done.stdout == "ok 1 keys\n"
    (base,), (later,) = ((tmp_path / "data/appendonlydir").glob(name) for name in ("*.base.aof", "*.incr.aof"))
    load(base.read_bytes() + later.read_bytes(), valkey)
    with redis.Redis.from_url(valkey.url) as new:
        assert (new.get("sc:before"), new.get("sc:after")) == (b"1", b"2")
        assert 0 < new.ttl("sc:before") <= 1000


def load(commands, server):
    """Sends a file of commands and waits until all of them are done, as ``redis-cli --pipe`` does."""
    with redis.Redis.from_url(server.url) as client:
        connection = client.connection_pool.get_connection()
        connection.send_packed_command([commands + b"*2\r\n$4\r\nECHO\r\n$4\r\ndone\r\n"])
        while connection.read_response() != b"done":
            pass
        client.connection_pool.release(connection)


if __name__ == "__main__":
    MONITORING.write_text(written(MONITORING.read_text("utf-8")), "utf-8")

"""What the metrics say of what they are fed; a real server's are held against its driver's counts in live/."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from proxy import __version__
from proxy.observe.metrics import MOST, NAMES, Finished, Metrics
from proxy.observe.workers import Workers

OPENMETRICS = "application/openmetrics-text;version=1.0.0"


def finished(status=200, route="/v1/responses", method="POST", first=0.5, whole=2.0, turn=None, **facts):
    facts |= {"route": route} if route else {}
    facts |= {"turn": turn} if turn is not None else {}
    return Finished("req_1", method, "/v1/responses/resp_secret", status, first, whole, facts)


def turn(model="m", **facts):
    known = {"upstream": "host", "response_status": "completed", "response": "resp_secret"}
    parts = {"upstream_ms": 1500.0, "store_ms": 20.0, "own_ms": 5.0}
    tokens = {"input_tokens": 10, "cached_tokens": 4, "output_tokens": 3, "reasoning_tokens": 1}
    return {"model": model} | known | parts | tokens | facts


def samples(metrics, accept=""):
    """Every sample but buckets, by name and labels."""
    metrics.settle()
    text = metrics.exposition(accept, "")[0].decode()
    read = openmetrics_parser if accept else parser
    found = {}
    for family in read.text_string_to_metric_families(text):
        for one in family.samples:
            if not one.name.endswith("_bucket"):
                key = (one.name, *sorted(one.labels.items()))
                assert key not in found
                found[key] = one.value
    return found


def fed(*requests):
    metrics = Metrics()
    for request in requests:
        metrics.request(request)
    return samples(metrics)


async def test_every_metric_has_the_name_the_kind_and_the_labels_of_the_table():
    metrics = Metrics()
    metrics.request(
        finished(turn=turn(usage_missing=True, stateless=True, dropped_tools="web_search", first_event_ms=1.0))
    )
    metrics.run(turn(response_status="completed"), attended=False)
    metrics.store("save", 0.1, False)
    metrics.upstream("host", "200", 0.1)
    metrics.tool("mcp", "completed", 0.1)
    metrics.limited("tokens")
    for what in ("ejected", "retry", "fallback"):
        metrics.replica(what, "chat", "host")
    metrics.settle()
    families = list(parser.text_string_to_metric_families(metrics.exposition("", "")[0].decode()))
    found = {family.name + ("_total" if family.type == "counter" else ""): family for family in families}
    assert found.keys() == NAMES.keys()
    for name, metric in NAMES.items():
        assert found[name].type == metric.kind
        assert {tuple(sorted(one.labels.keys() - {"le"})) for one in found[name].samples} == {
            tuple(sorted(metric.labels))
        }
        assert metric.meaning.endswith(".")


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
async def test_a_streamed_turn_is_told_in_all_its_parts(accept):
    metrics = Metrics()
    metrics.request(finished(turn=turn(first_event_ms=500.0)))
    told = samples(metrics, accept)
    route = (("method", "POST"), ("route", "/v1/responses"))
    for key, value in {
        ("statecar_requests_total", *route, ("status", "200")): 1,
        ("statecar_request_seconds_sum", *route): 2.0,
        ("statecar_turns_total", ("model", "m"), ("status", "completed")): 1,
        ("statecar_turn_seconds_sum", ("model", "m")): 2.0,
        ("statecar_first_event_seconds_sum", ("model", "m")): 0.5,
        ("statecar_turn_part_seconds_sum", ("part", "upstream")): 1.5,
        ("statecar_turn_part_seconds_sum", ("part", "store")): 0.02,
        ("statecar_turn_part_seconds_sum", ("part", "own")): 0.005,
        ("statecar_input_tokens_total", ("model", "m")): 10,
        ("statecar_cached_tokens_total", ("model", "m")): 4,
        ("statecar_output_tokens_total", ("model", "m")): 3,
        ("statecar_reasoning_tokens_total", ("model", "m")): 1,
        ("statecar_save_failures_total",): 0,
        ("statecar_build_info", ("version", __version__)): 1,
    }.items():
        assert told[key] == value, key
    assert "secret" not in str(told)


TURNS = {
    "failed": (finished(turn=turn(response_status="failed")), "m", "failed"),
    "refused by an upstream": (finished(400, turn={"model": "m", "own_ms": 1.0}), "", "refused"),
    "refused after an answer": (finished(502, turn={"model": "m", "upstream": "host"}), "m", "refused"),
    "left in mid-stream": (
        finished(499, turn={"model": "m", "upstream": "host"}, left=True),
        "m",
        "left",
    ),
    "left before an answer": (finished(499, first=None, turn={"model": "m"}, left=True), "", "left"),
}


@pytest.mark.parametrize(("request_", "model", "status"), TURNS.values(), ids=TURNS)
async def test_how_a_turn_ended_is_told_and_its_model_only_when_an_upstream_answered(request_, model, status):
    told = fed(request_)
    assert told["statecar_turns_total", ("model", model), ("status", status)] == 1
    assert (("statecar_turn_seconds_count", ("model", model)) in told) == (status == "failed")
    assert sum(key[0] == "statecar_turns_total" for key in told) == 1


STATUSES = {
    "left in mid-stream": (finished(499, streamed=True, left=True), "200"),
    "left before an answer": (finished(499, first=None, left=True), "499"),
    "refused": (finished(404), "404"),
}


@pytest.mark.parametrize(("request_", "status"), STATUSES.values(), ids=STATUSES)
async def test_the_status_is_the_one_that_was_sent(request_, status):
    key = ("statecar_requests_total", ("method", "POST"), ("route", "/v1/responses"), ("status", status))
    assert fed(request_)[key] == 1


async def test_what_strangers_choose_is_bounded():
    models = [finished(turn=turn(f"m{n}")) for n in range(MOST + 20)]
    known = {key[1][1]: value for key, value in fed(*models).items() if key[0] == "statecar_turns_total"}
    assert known == {f"m{n}": 1 for n in range(MOST)} | {"other": 20}
    methods = fed(finished(method="PROPFIND", route=None), finished(method="MKCOL", route=None))
    key = ("statecar_requests_total", ("method", "other"), ("route", "unknown"), ("status", "200"))
    assert methods[key] == 2


async def test_a_tools_type_is_told_where_it_looks_like_one():
    facts = turn(dropped_tools="web_search, image_generation, web_search my mother's maiden name, " + "x" * 65)
    told = {key[1][1]: value for key, value in fed(finished(turn=facts)).items() if "dropped" in key[0]}
    assert told == {"web_search": 1, "image_generation": 1, "other": 2}


@pytest.mark.parametrize("name", ['a"b\\c\nd', "\ud83d", "ü 🙂", " ", "a\x00b"])
async def test_any_models_name_can_be_told(name):
    told = fed(finished(turn=turn(name)))
    assert told["statecar_turns_total", ("model", name.encode(errors="replace").decode()), ("status", "completed")] == 1


async def test_no_number_of_an_upstream_breaks_a_counter():
    requests = [finished(turn=turn(input_tokens=count)) for count in (10**400, -5, None, 7)]
    assert fed(*requests)["statecar_input_tokens_total", ("model", "m")] == 7


@pytest.mark.parametrize(
    ("fact", "name"),
    [
        ({"save_failed": True}, "statecar_save_failures_total"),
        ({"repaired_calls": 3}, "statecar_repaired_orders_total"),
        ({"truncated_items": 2}, "statecar_truncated_turns_total"),
        ({"compacted": True}, "statecar_compacted_turns_total"),
    ],
)
async def test_a_turns_mishaps_count_once(fact, name):
    told = fed(finished(turn=turn(**fact)), finished(turn=turn()))
    mishaps = [key for key, value in told.items() if len(key) == 1 and value and key[0].startswith("statecar")]
    assert mishaps == [(name,)]
    assert told[name,] == 1


async def test_the_store_and_the_upstream_are_told_as_heard():
    metrics = Metrics()
    metrics.store("save", 0.25, True)
    metrics.store("save", 0.5, False)
    metrics.upstream("host", "200", 0.125)
    metrics.upstream("host", "unreachable", None)
    told = samples(metrics)
    assert told["statecar_store_seconds_count", ("operation", "save")] == 2
    assert told["statecar_store_seconds_sum", ("operation", "save")] == 0.75
    assert told["statecar_store_errors_total", ("operation", "save")] == 1
    for status in ("200", "unreachable"):
        assert told["statecar_upstream_requests_total", ("status", status), ("upstream", "host")] == 1
    assert told["statecar_upstream_first_byte_seconds_count", ("upstream", "host")] == 1


async def test_replicas_are_told_as_they_go_out_and_come_back():
    metrics = Metrics()
    metrics.replica("returned", "chat", "a")  # how each begins
    metrics.replica("returned", "chat", "b")
    for what in ("ejected", "retry", "retry", "returned", "ejected"):
        metrics.replica(what, "chat", "a")
    metrics.replica("fallback", "chat", "small")
    told = samples(metrics)
    of_a, of_b = (("group", "chat"), ("upstream", "a")), (("group", "chat"), ("upstream", "b"))
    assert (told["statecar_upstream_out", *of_a], told["statecar_upstream_out", *of_b]) == (1, 0)
    assert told["statecar_upstream_ejections_total", *of_a] == told["statecar_upstream_retries_total", *of_a] == 2
    assert told["statecar_upstream_fallbacks_total", ("fallback", "small"), ("group", "chat")] == 1
    metrics.replica("returned", "chat", "a")
    assert samples(metrics)["statecar_upstream_out", *of_a] == 0


async def test_what_is_open_goes_up_and_down():
    metrics = Metrics()
    for change in (1, 1, -1):
        metrics.open_requests(change)
        metrics.open_streams(change)
    told = samples(metrics)
    assert (told["statecar_open_requests",], told["statecar_open_streams",]) == (1, 1)


NO_VERSIONS = ["abc", "1.x", "", "\x80", "9" * 5000, "1.0.0.a"]


@pytest.mark.parametrize("version", NO_VERSIONS)
@pytest.mark.parametrize("format_", ["application/openmetrics-text", "text/plain"])
def test_whatever_version_is_asked_for_there_is_an_answer(version, format_):
    body, headers = Metrics().exposition(f"{format_};version={version}", "")
    assert b"statecar_build_info{" in body
    assert ("openmetrics" in headers["content-type"]) == body.endswith(b"# EOF\n")


def test_a_process_alone_keeps_them_in_memory_whatever_the_environment_says(tmp_path):
    alone = "from proxy.observe.metrics import Metrics; print(Metrics().exposition('', '')[0].decode())"
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    told = subprocess.run([sys.executable, "-c", alone], env=environment, capture_output=True, text=True, check=True)
    assert "statecar_build_info{" in told.stdout
    assert not os.listdir(tmp_path)


# -- several workers


WORKER = """
import asyncio, json, sys
from pathlib import Path
from proxy.observe.metrics import Metrics
from tests.observe.test_metrics import finished, samples, turn

async def main():
    metrics = Metrics(Path(sys.argv[1]))
    metrics.open_streams(2)
    metrics.settle()
    print("here", flush=True)
    for line in sys.stdin:
        if line.startswith("tell"):
            print(json.dumps([[*key, value] for key, value in samples(metrics, sys.argv[2]).items()]), flush=True)
        else:
            metrics.request(finished(turn=turn(line.strip())))
            metrics.settle()
            print("done", flush=True)

asyncio.run(main())
"""


class Worker:
    """A process with metrics in a directory."""

    def __init__(self, directory, accept=""):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(directory), accept],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        self.said()
        return self

    def __exit__(self, *_):
        with self.process:
            self.process.kill()

    def said(self):
        return self.process.stdout.readline().strip()

    def ask(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.said()

    def told(self):
        rows = json.loads(self.ask("tell"))
        return {(name, *map(tuple, labels)): value for name, *labels, value in rows}


@contextmanager
def workers(directory, *accepts):
    started = [Worker(directory, accept) for accept in accepts]
    try:
        yield [worker.__enter__() for worker in started]
    finally:
        for worker in started:
            worker.__exit__()


def turns(told):
    return {key[1][1]: value for key, value in told.items() if key[0] == "statecar_turns_total"}


def test_a_workers_files_can_be_read_before_anything_is_in_them(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    workers = Workers(tmp_path)
    assert len(list(tmp_path.glob("*.db"))) == 4
    assert list(workers.collector().collect()) == []
    assert workers.labels() == {}
    os.close(workers._held)


def test_any_worker_tells_those_of_all_and_the_dead_ones_counts_but_not_their_streams(tmp_path):
    with workers(tmp_path, "", OPENMETRICS) as (one, other):
        for worker, model in ((one, "a"), (other, "a"), (other, "b")):
            worker.ask(model)
        assert turns(one.told()) == turns(other.told()) == {"a": 2, "b": 1}
        assert one.told()["statecar_open_streams",] == other.told()["statecar_open_streams",] == 4
        assert one.told()["statecar_build_info", ("version", __version__)] == 1
        files = sorted(os.listdir(tmp_path))
        other.__exit__()  # killed
        assert turns(one.told()) == {"a": 2, "b": 1}
        assert one.told()["statecar_open_streams",] == 2
        for _ in range(2):
            with Worker(tmp_path) as again:  # counts on in the dead one's place
                again.ask("b")
                assert one.told() == again.told()
                assert again.told()["statecar_open_streams",] == 4
                assert sorted(os.listdir(tmp_path)) == files
        assert turns(one.told()) == {"a": 2, "b": 3}


def test_workers_that_die_again_and_again_leave_no_more_than_one_did(tmp_path):
    sizes = []
    for life in range(3):
        with Worker(tmp_path) as worker:
            for n in range(MOST // 2 + 10):
                worker.ask(f"m{life}.{n}")
            sizes.append((len(os.listdir(tmp_path)), len(turns(worker.told()))))
    assert sizes == [(sizes[0][0], MOST // 2 + 10), (sizes[0][0], MOST + 1), (sizes[0][0], MOST + 1)]


FULL = """
import asyncio, errno, json, logging, resource, sys
from pathlib import Path
from proxy.observe.metrics import Metrics
from tests.observe.test_metrics import finished, samples, turn

def tell(metrics):
    print(json.dumps([[*key, value] for key, value in samples(metrics).items()]))

def some(metrics, *models):
    for model in models:
        metrics.request(finished(turn=turn(model)))

async def main():
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    metrics = Metrics(Path(sys.argv[1]))
    some(metrics, "first")
    metrics.settle()
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
    some(metrics, "first", *(f"m{n}" for n in range(99)))
    tell(metrics)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    some(metrics, "first", *(f"m{n}" for n in range(99)))
    tell(metrics)

asyncio.run(main())
"""


def test_a_full_disk_costs_new_values_and_nothing_else(tmp_path):
    told = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True).stdout
    complaint, full, again = told.splitlines()
    assert complaint == "metrics are incomplete: no room for more in the temporary directory: File too large"
    for line, count in (full, 2), (again, 3):
        found = {tuple(map(str, key)): value for *key, value in json.loads(line)}
        of_models = [key for key in found if key[0] == "statecar_turns_total"]
        assert (len(of_models) == 100) == (count == 3)
        assert found["statecar_turns_total", "['model', 'first']", "['status', 'completed']"] == count
        assert found["statecar_turn_seconds_count", "['model', 'first']"] == count
    for path in tmp_path.glob("*.db"):  # where there is a hole, a disk that is full by then would end the process
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            assert file.seek(0, os.SEEK_HOLE) == size >= 1 << 16, path

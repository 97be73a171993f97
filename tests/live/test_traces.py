"""Traces of a real process, as a real collector is sent them over OTLP."""

import gzip
import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.live.conftest import Process

pytestmark = pytest.mark.live


class Collector(ThreadingHTTPServer):
    """Takes what is exported. ``taken``: (path, headers, what was sent)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.taken = []

    def spans(self):
        """(span, the attributes of its resource) of all."""
        for _, _, sent in self.taken:
            for of_resource in sent.resource_spans:
                resource = values(of_resource.resource.attributes)
                for scope in of_resource.scope_spans:
                    yield from ((span, resource) for span in scope.spans)


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.taken.append((self.path, self.headers, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.01,))
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def values(attributes):
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


def test_what_a_worker_has_not_sent_is_sent_when_it_ends(collector, valkey, tmp_path, monkeypatch):
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-team=blue",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_SERVICE_NAME": "front",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "OTEL_BSP_SCHEDULE_DELAY": "600000",
        "OTEL_PROPAGATORS": "b3",  # read by the SDK of MCP, and not installed
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    options = ("--upstream=demo", f"--store={valkey.url}", "--traces=on", "--workers=2", "--log-format=json")
    process = Process(tmp_path, *options, "--mcp-allow=127.0.0.1:9")
    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)
    try:
        headers = {"traceparent": f"00-{trace_id}-{caller}-01", "authorization": f"Bearer {secrets.token_hex(8)}"}
        body = {"model": "demo", "input": "Hi"}
        answer = httpx.post(f"{process.url()}/v1/responses", json=body, headers=headers, trust_env=False, timeout=30)
        assert answer.status_code == 200
        httpx.get(f"{process.url()}/v1/conversations/conv_none", headers=headers, trust_env=False, timeout=30)
        assert not collector.taken
    finally:
        process.ask_to_end()
        assert process.ended() == 0, process.stderr
    assert {path for path, _, _ in collector.taken} == {"/v1/traces"}
    assert all(headers["x-team"] == "blue" for _, headers, _ in collector.taken)
    told = {span.name: (span, resource) for span, resource in collector.spans() if span.trace_id.hex() == trace_id}
    server, resource = told["POST /v1/responses"]
    assert server.parent_span_id.hex() == caller
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("front", "test")
    assert told["turn"][0].parent_span_id == server.span_id
    assert told["chat demo"][0].parent_span_id == told["EVALSHA save"][0].parent_span_id == told["turn"][0].span_id
    assert values(told["chat demo"][0].attributes)["gen_ai.usage.output_tokens"] > 0
    lines = [json.loads(line) for line in process.stderr.splitlines()]
    assert [line["trace_id"] for line in lines if line.get("path", "").startswith("/v1/")] == [trace_id] * 2

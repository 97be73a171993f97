"""The document as a server gives it out."""

import proxy
from tests.callers import Caller, ok, refusal
from tests.contract.document import DOCUMENT, operations

SERVER = {"/health", "/ready", "/metrics", "/openapi.json"}


async def test_the_document_is_served_with_this_version(serve):
    async with Caller(await serve(), prefix="") as caller:
        served = ok(await caller.http.get("/openapi.json"))
        assert served == {**DOCUMENT, "info": {**DOCUMENT["info"], "version": proxy.__version__}}
        head = await caller.http.head("/openapi.json")
        assert (head.status_code, head.content) == (200, b"")
        assert refusal(await caller.http.post("/openapi.json")) == (405, "method_not_supported", None)


async def test_own_prefix_moves_the_document_and_its_paths(serve, backend):
    async with Caller(await serve("--own-prefix=/statecar"), prefix="") as caller:
        served = ok(await caller.http.get("/statecar/openapi.json"))
        assert served["paths"].keys() == {
            f"/statecar{operation.path}" if operation.path in SERVER else operation.path for operation in operations()
        }
        await caller.http.get("/openapi.json")
    assert backend.requests[-1].target == "/openapi.json"


async def test_without_metrics_the_document_does_not_promise_them(serve):
    async with Caller(await serve("--no-metrics"), prefix="") as caller:
        served = ok(await caller.http.get("/openapi.json"))
        assert served["paths"].keys() == {operation.path for operation in operations()} - {"/metrics"}


async def test_what_is_about_the_server_needs_no_key_as_the_document_says(serve):
    async with Caller(await serve("--api-key=secret"), prefix="") as caller:
        for operation in operations():
            path = operation.path.replace("{", "").replace("}", "")
            answer = await caller.http.request(operation.method, path, json={})
            assert (answer.status_code == 401) == (operation.text.get("security") != []), path

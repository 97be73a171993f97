"""A stdio MCP server with one tool, for clients that bring their own."""

import json
import sys

TOOL = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "inputSchema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def result(method, params):
    if method == "initialize":
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "wx", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": [TOOL]}
    if method == "tools/call":
        return {"content": [{"type": "text", "text": f"Sunny in {params['arguments']['city']}."}]}
    return {}


for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        print(
            json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result(asked["method"], asked.get("params"))}),
            flush=True,
        )

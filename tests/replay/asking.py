"""A recorded chat request as the Responses request that leads to it."""

from __future__ import annotations

from typing import Any

from tests.replay.recordings import Recording

SAME = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "parallel_tool_calls", "top_logprobs", "store")


def asked(recording: Recording) -> dict[str, Any]:
    """The Responses body. Chat requests made to be refused become a plain question: we refuse them ourselves."""
    chat = recording.request["body"]
    if "error_" in recording.name:
        return {"model": "tiny", "input": "Say hello."}
    body = {"model": chat["model"], "input": [item for one in chat["messages"] for item in _items(one)]}
    body |= {key: chat[key] for key in SAME if key in chat}
    if chat.get("max_tokens"):
        body["max_output_tokens"] = chat["max_tokens"]
    if chat.get("logprobs"):
        body["include"] = ["message.output_text.logprobs"]
    if chat.get("tools"):
        body["tools"] = [{"type": "function", "strict": False, **tool["function"]} for tool in chat["tools"]]
    if "tools" in body and "tool_choice" in chat:
        body["tool_choice"] = _choice(chat["tool_choice"])
    if form := chat.get("response_format"):
        body["text"] = {"format": {"type": form["type"], **form.get("json_schema", {})}}
    return body


def _items(message: dict[str, Any]) -> list[dict[str, Any]]:
    if message["role"] == "tool":
        return [{"type": "function_call_output", "call_id": message["tool_call_id"], "output": message["content"]}]
    items: list[dict[str, Any]] = []
    if thought := message.get("reasoning_content"):
        part = {"type": "reasoning_text", "text": thought}
        items.append({"type": "reasoning", "id": "rs_1", "summary": [], "content": [part]})
    if message["content"]:
        items.append({"type": "message", "role": message["role"], "content": _content(message["content"])})
    for call in message.get("tool_calls", ()):
        items.append({"type": "function_call", "call_id": call["id"], **call["function"]})
    return items


def _content(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [{"type": "input_text", "text": part["text"]} for part in content]


def _choice(choice: Any) -> Any:
    return choice if isinstance(choice, str) else {"type": "function", "name": choice["function"]["name"]}

"""Calls of MCP tools that wait for leave, and the answers to them, in whatever turn they come (wire §7.10)."""

from __future__ import annotations

from collections.abc import Collection

from proxy.errors import InvalidRequest
from proxy.state import Item

RESPONSE = "mcp_approval_response"


def check_approvals(given: list[Item], past: list[Item], labels: Collection[str]) -> None:
    """Raises InvalidRequest for an answer to nothing, and for leave to call a server that the request does not bring.

    ``given``: the request's own items; ``labels``: of its servers.
    """
    answers = [item for item in given if item["type"] == RESPONSE]
    requests = _requests([*past, *given]) if answers else {}
    for answer in answers:
        id_ = answer["approval_request_id"]
        if id_ not in requests:
            raise InvalidRequest(
                f"No approval request with id '{id_}' is in this context. Send 'previous_response_id' of the response"
                " that asked, or its items.",
                param="input",
            )
        label = requests[id_]["server_label"]
        if answer["approve"] and label not in labels:
            raise InvalidRequest(
                f"'{id_}' approves a call of the MCP server '{label}', which is not among 'tools'.", param="tools"
            )


def approved(items: list[Item], labels: Collection[str]) -> list[Item]:
    """The requests in a context that were approved, last word given, and whose calls have not been made, in order."""
    last = {item["approval_request_id"]: item["approve"] for item in items if item["type"] == RESPONSE}
    if not last:
        return []
    made = {item.get("approval_request_id") for item in items if item["type"] == "mcp_call"}
    asked = _requests(items)
    return [
        request
        for id_, request in asked.items()
        if last.get(id_) and id_ not in made and request["server_label"] in labels
    ]


def _requests(items: list[Item]) -> dict[str, Item]:
    return {item["id"]: item for item in items if item["type"] == "mcp_approval_request"}

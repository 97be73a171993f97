"""What strangers may send, checked once. Inside travel plain dicts; nothing behind this room checks a shape again.

A body is never changed: what comes back is new, without nulls, with items in stored form. Whatever is wrong is raised
as ``InvalidRequest`` in OpenAI's words (wire §2.3); what only a backend can judge is let through (wire §1.12).
"""

from proxy.wire.conversations import create_conversation, create_items, update_conversation
from proxy.wire.frames import CREATE, STEER, create_frame, frame
from proxy.wire.headers import idempotency_key, on_disconnect
from proxy.wire.items import input_item
from proxy.wire.named import every_model, in_form, in_json, in_object, renamed
from proxy.wire.query import flag, include, integer, page, starting_after, text
from proxy.wire.responses import compact_response, count_input_tokens, create_response

__all__ = [
    "CREATE",
    "STEER",
    "compact_response",
    "count_input_tokens",
    "create_conversation",
    "create_frame",
    "create_items",
    "create_response",
    "every_model",
    "flag",
    "frame",
    "idempotency_key",
    "in_form",
    "in_json",
    "in_object",
    "include",
    "input_item",
    "integer",
    "on_disconnect",
    "page",
    "renamed",
    "starting_after",
    "text",
    "update_conversation",
]

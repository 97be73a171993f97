"""Every error statecar raises on purpose, and its body in OpenAI's shape (docs/reference/wire.md §2).

StatecarError              500  our own fault
├── InvalidRequest         400  the caller's body or parameters
├── Unauthorized           401  a missing or wrong key
├── Forbidden              403  what an access rule keeps a user from, with what it may read
├── ForeignOrigin          403  a WebSocket for a page of another site
├── InsufficientScope      403  more than a key or token allows
├── NotFound               404  an id that is unknown, expired, deleted or another tenant's
│   └── ModelNotFound      404  a model that is unknown, or that a key must not ask
├── MethodNotAllowed       405  a known path, another method
├── RateLimited            429  a tenant's limit of requests, tokens or turns is reached
├── StorageFull            429  so is that of its stored bytes
├── TooLarge               413  a body above the limit
├── UpgradeRequired        426  a WebSocket where none is served
├── ToolServerError        424  an MCP server that does not answer as it should
├── NotBuilt               501  what neither this server nor its upstream can do
├── StoreUnavailable       503  Redis is down, slow or refusing
├── KeysUnavailable        503  what callers are checked by cannot be read
├── EncryptionKeyMissing   500  stored content that none of our keys opens
├── LockLost               500  a conversation's lock expired under a turn; nothing was appended
└── UpstreamError          502  the backend failed; carries the backend's own status when it gave one
    ├── UpstreamUnreachable 502  no connection
    ├── UpstreamUnavailable 503  nothing of a group can be asked for now
    └── UpstreamTimeout     504  no first byte, or silence in mid-stream
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class StatecarError(Exception):
    """An answer in OpenAI's error shape; ``status`` is the HTTP status, ``headers`` go out with it."""

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else type(self).code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The HTTP body, all four keys always present (OpenAPI ``ErrorResponse``)."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def as_response_error(self) -> dict[str, Any]:
        """The ``error`` object of a failed response (wire §5.3, §9.8)."""
        return {"code": "server_error", "message": self.message}


class InvalidRequest(StatecarError):
    status, type = 400, "invalid_request_error"


class Unauthorized(StatecarError):
    """``challenge``: what ``WWW-Authenticate`` says (RFC 6750 §3)."""

    status, type, code = 401, "invalid_request_error", "invalid_api_key"

    def __init__(self, message: str, *, code: str | None = None, challenge: str = "Bearer") -> None:
        super().__init__(message, code=code, headers={"www-authenticate": challenge})


class InsufficientScope(StatecarError):
    """A key or token does not allow what is asked. ``scope``: what it would take."""

    status, type, code = 403, "invalid_request_error", "insufficient_scope"

    def __init__(self, scope: str) -> None:
        super().__init__(
            f"You have insufficient permissions for this operation. Missing scopes: {scope}.",
            headers={"www-authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
        )


class Forbidden(StatecarError):
    """A user may not do that. ``action``: as rules say it; ``id_``: "" where there is no thing yet."""

    status, type, code = 403, "invalid_request_error", "access_denied"

    def __init__(self, action: str, kind: str, id_: str = "") -> None:
        super().__init__(f"You are not allowed to {action} {f'{kind} {id_!r}' if id_ else f'a {kind}'}.")


class ForeignOrigin(StatecarError):
    """A page of another site wants a WebSocket: what no page may read over HTTP, none may read so."""

    status, type, code = 403, "invalid_request_error", "origin_not_allowed"

    def __init__(self) -> None:
        super().__init__(
            "WebSockets without a key are refused to pages of other sites: 'Origin' names another host than 'Host'."
        )


class NotFound(StatecarError):
    status, type = 404, "invalid_request_error"


class ModelNotFound(NotFound):
    """A model that no upstream serves, or that the caller must not ask: which of both is not said."""

    code = "model_not_found"

    def __init__(self, model: str) -> None:
        """``model``: "" where none could be read, and not any may be asked."""
        told = f"The model '{model[:128]}' does not exist or you do not have access to it."
        unnamed = (
            "The request names no model, or not plainly: as you have access to some only, one must stand in its body,"
            " as JSON with the content type application/json or as multipart/form-data."
        )
        super().__init__(told if model else unnamed, param="model")


class MethodNotAllowed(StatecarError):
    status, type, code = 405, "invalid_request_error", "method_not_supported"


class TooLarge(StatecarError):
    status, type = 413, "invalid_request_error"


class UpgradeRequired(StatecarError):
    status, type = 426, "invalid_request_error"


class ToolServerError(StatecarError):
    """A tool server that cannot be reached, or does not list its tools. ``why``: a sentence, without secrets.

    ``said``: the server's own words, which end the sentence, but not in logs. ``http_status``: what it answered, 502
    where it gave no answer.
    """

    status, type, code = 424, "external_connector_error", "http_error"

    def __init__(self, label: str, why: str, *, said: str = "", http_status: int = 502) -> None:
        self.label = label
        self.for_log = why
        self.why = f"{why.removesuffix('.')}: {said}" if said else why
        super().__init__(f"Error retrieving tool list from MCP server: '{label}'. {self.why}", param="tools")
        self.http_status = http_status


class ToolSessionLost(ToolServerError):
    """A tool server has forgotten the session, so it did not take the message either."""


class NotBuilt(StatecarError):
    status, code = 501, "not_implemented"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"x-should-retry": "false"})  # SDKs retry every other 5xx (wire §1.7)


class EncryptionKeyMissing(StatecarError):
    """What was stored was sealed with a key that this server was not given."""

    code = "encryption_key_missing"

    def __init__(self) -> None:
        super().__init__("The stored content is encrypted with a key that this server does not have.")


class StoreUnavailable(StatecarError):
    status, code = 503, "store_unavailable"

    def __init__(self, message: str = "The state store is not reachable. Please retry.") -> None:
        super().__init__(message, headers={"retry-after": "1"})


class KeysUnavailable(StatecarError):
    """What callers are checked by was never read and cannot be. ``seconds``: until it is tried again."""

    status, code = 503, "keys_unavailable"

    def __init__(self, message: str, seconds: int = 2) -> None:
        super().__init__(message, headers={"retry-after": str(seconds)})


class LockLost(StatecarError):
    """The turn stalled for longer than its lease, so another may have begun (architecture: locks and leases)."""


class TooManyRuns(StatecarError):
    """There is as much background work as is allowed."""

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"

    def __init__(self, *, of_tenant: bool) -> None:
        whose = "you have" if of_tenant else "this server has"
        super().__init__(
            f"Too many background responses are queued or running: {whose} reached the limit. Please retry later.",
            headers={"retry-after": "5"},
        )


class RateLimited(StatecarError):
    """A tenant has reached a limit of its own, and nothing was done. ``headers``: how its limits stand."""

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"

    def __init__(self, what: str, most: int, wait: int, headers: Mapping[str, str]) -> None:
        """``what``: is limited, to ``most``. ``wait``: seconds until there is room."""
        super().__init__(
            f"Rate limit reached: {what}, limit {most}. Please try again in {wait}s.",
            headers={**headers, "retry-after": str(wait)},
        )


class StorageFull(StatecarError):
    """A tenant has stored as many bytes as it may: to delete something helps."""

    status, type, code = 429, "insufficient_quota", "insufficient_quota"

    def __init__(self, most: int, there: int, wait: int = 0) -> None:
        """``wait``: seconds until less may be about to be stored; 0: to try again changes nothing."""
        super().__init__(
            f"Storage quota reached: {there} of {most} bytes are stored or about to be. Delete responses or"
            " conversations, or send 'store': false.",
            headers={"retry-after": str(wait)} if wait else {"x-should-retry": "false"},
        )


class TooManyFollowers(StatecarError):
    """As many streams of background responses are being read as this process allows."""

    status = 503

    def __init__(self) -> None:
        super().__init__(
            "Too many streams of background responses are being read here. Please retry later.",
            headers={"retry-after": "5"},
        )


class TooManyConnections(StatecarError):
    """As many WebSockets are open as this process allows."""

    status = 503

    def __init__(self) -> None:
        super().__init__("Too many WebSockets are open here. Please retry later.", headers={"retry-after": "5"})


class TooManyFrames(InvalidRequest):
    """A client asks over a WebSocket for more at once than is kept for it (wire §13.4)."""

    code = "too_many_frames"

    def __init__(self, frames: int, size: int) -> None:
        super().__init__(
            f"Too many requests wait on this connection: at most {frames}, of {size} bytes together. Wait for answers,"
            " or use more connections."
        )


class ConnectionExpired(InvalidRequest):
    """A WebSocket has been open for as long as one may be (wire §13.4). ``seconds``: how long that is."""

    code = "websocket_connection_limit_reached"

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"Responses websocket connection limit reached ({seconds / 60:g} minutes)."
            " Create a new websocket connection to continue."
        )


class KeyReused(StatecarError):
    """An idempotency key came with another body than before."""

    status, type, code = 400, "invalid_request_error", "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__(
            "This 'Idempotency-Key' was already used for a request with another body. Use a new key for a new request,"
            " or send the same body again."
        )


class KeyLost(StatecarError):
    """The server stalled for longer than it holds a key, so another request may make the response."""

    status = 503

    def __init__(self) -> None:
        super().__init__(
            "Another request with this 'Idempotency-Key' has come between. Please retry.", headers={"retry-after": "1"}
        )


class RunLost(StatecarError):
    """Another process makes the response now: this one must not tell or keep anything more of it."""


class RunCancelled(StatecarError):
    """Somebody wants the run to end as cancelled."""


class LogFull(StatecarError):
    """A run's event log has reached its limit."""

    code = "event_log_full"

    def __init__(self) -> None:
        super().__init__("The response has more events than this server keeps of one response.")


class UpstreamError(StatecarError):
    """The backend's failure. ``status`` is the backend's own where it gave one of 400..599."""

    status = 502

    def __init__(self, message: str, *, status: int | None = None, type: str | None = None, **rest: Any) -> None:
        super().__init__(message, **rest)
        if status is not None:
            self.status = status
        if type is not None:
            self.type = type

    def as_response_error(self) -> dict[str, Any]:
        """Codes steer retrying clients: a late 4xx that a retry cannot cure is ``invalid_prompt`` (wire §9.8)."""
        if self.code in (OVERFLOW, "insufficient_quota", "rate_limit_exceeded"):
            code = self.code
        elif self.status == 429:
            code = "rate_limit_exceeded"
        elif 400 <= self.status < 500 and self.status != 408:
            code = "invalid_prompt"
        else:
            code = "server_error"
        return {"code": code, "message": self.message}


class UpstreamUnreachable(UpstreamError):
    status, code = 502, "upstream_unreachable"


class UpstreamUnavailable(UpstreamError):
    """No replica of a group can be asked. ``seconds``: until it is worth another try."""

    code = "upstream_unavailable"

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message, status=503, headers={"retry-after": str(seconds)})


class UpstreamTimeout(UpstreamError):
    status, code = 504, "upstream_timeout"


OVERFLOW = "context_length_exceeded"
"""The code of a context that is too long for its model, whatever the upstream calls it."""

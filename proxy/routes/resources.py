"""Our own endpoints by their paths, and what a request is answered with when one of them raises.

Not Starlette's routes: eleven coroutines of its middlewares and wrappers were resumed for every token, 16 us of 147.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.errors import MethodNotAllowed, NotFound, StatecarError
from proxy.routes.edge import LIMITS, answer, facts

Endpoint = Callable[[Request], Awaitable[ASGIApp]]

_NAMED = re.compile(r"\{(\w+)\}")


class Resource:
    """A path and what its methods do; another method is a 405 that names those allowed (wire §2.4).

    ``path``: what stands in braces is one segment, given to endpoints in the request's ``path_params``.
    """

    def __init__(self, path: str, **methods: Endpoint) -> None:
        self.path = path
        self.pattern = re.compile(_NAMED.sub(r"(?P<\1>[^/]+)", path)) if _NAMED.search(path) else None
        self._endpoints = dict(methods)
        if "GET" in methods:
            self._endpoints["HEAD"] = methods["GET"]

    def endpoint(self, scope: Scope) -> Endpoint:
        """What a request's method does. Raises MethodNotAllowed."""
        facts(scope)["route"] = self.path
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is None:
            allowed = ", ".join(sorted(self._endpoints))
            raise MethodNotAllowed(
                f"Not allowed to {scope['method']} on {scope['path']} (HINT: allowed are {allowed}).",
                headers={"allow": allowed},
            )
        return endpoint


class Resources:
    """An ASGI application of resources; paths without names in them go first. Here our errors become answers."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self._plain: dict[str, Resource] = {}
        self._named: list[tuple[re.Pattern[str], Resource]] = []
        for resource in resources:
            if resource.pattern:
                self._named.append((resource.pattern, resource))
            else:
                self._plain[resource.path] = resource

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            endpoint = self._at(scope).endpoint(scope)
            app = await endpoint(Request(scope, receive))
            await app(scope, receive, send)
        except StatecarError as exc:
            if facts(scope).get("begun"):
                raise
            await refusal(exc, scope)(scope, receive, send)
        except ClientDisconnect:  # while its body was read: nobody is there to be told
            facts(scope)["left"] = True
        except Exception:
            if not facts(scope).get("begun"):
                broken = StatecarError("The server had an error while processing your request. Sorry about that!")
                await refusal(broken, scope)(scope, receive, send)
            raise  # the server logs it

    def _at(self, scope: Scope) -> Resource:
        path: str = scope["path"]
        if resource := self._plain.get(path):
            return resource
        for pattern, resource in self._named:
            if found := pattern.fullmatch(path):
                scope["path_params"] = found.groupdict()
                return resource
        raise NotFound(f"There is nothing at {path} here.")


def refusal(exc: StatecarError, scope: Scope) -> ASGIApp:
    """An error as the answer that it is (wire §2)."""
    return answer(exc.body(), exc.status, exc.headers | scope.get(LIMITS, {}))

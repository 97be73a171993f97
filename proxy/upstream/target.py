"""A model as one turn asks for it: the group that serves it, its name there, and who is asked instead."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from proxy.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from proxy.refusals import from_upstream
from proxy.upstream.client import KEYS, Upstream
from proxy.upstream.forward import Forwarded
from proxy.upstream.group import Group
from proxy.upstream.replica import is_for_another
from proxy.upstream.reply import BODY_LIMIT, Reply


class Target:
    """``model``: its name upstream; ``session``: what its calls have in common, which the same replica should see.
    ``name``: of the replica that was asked last, for logs; before the first call of one of them.

    ``fallbacks``: (group, the model's name there), asked in this order where this one cannot.
    """

    __slots__ = ("_group", "fallbacks", "model", "name", "session")

    def __init__(self, group: Group, model: str, session: str, fallbacks: tuple[tuple[Group, str], ...] = ()) -> None:
        self._group, self.model, self.session, self.fallbacks = group, model, session, fallbacks
        self.name = group.replicas[0].name

    @property
    def group(self) -> str:
        """The group's name."""
        return self._group.name

    @property
    def kind(self) -> str:
        """What kind of servers the group is said to have."""
        return self._group.kind

    @property
    def base_url(self) -> str:
        """The URL of its first replica, whose host may tell the kind."""
        return self._group.base_url

    @property
    def identity(self) -> str:
        """What its servers' kind and their lessons are known by."""
        return self._group.identity

    @property
    def has_key(self) -> bool:
        """Whether keys of ours are sent wherever this may lead, so that the caller's is not needed."""
        return self._group.has_key and all(group.has_key for group, _ in self.fallbacks)

    @property
    def own_key(self) -> bool:
        """Whether a key of ours is sent to each of the group's own replicas."""
        return self._group.has_key

    def instead(self, failure: UpstreamError) -> Target | None:
        """The next one to ask after a failure that another group may not have; None for the end of the list."""
        if not self.fallbacks or not is_for_another(failure):
            return None
        (group, model), *rest = self.fallbacks
        self._group.told("fallback", self._group.name, group.name)
        return Target(group, model, self.session, tuple(rest))

    def open(
        self, body: bytes, headers: Sequence[tuple[str, str]], *, stream: bool
    ) -> AbstractAsyncContextManager[Reply]:
        """As ``Upstream.open``; where there is a choice, an answer has begun by its first chunk, and until then another
        replica may give it.
        """
        if only := self._group.only:
            return only.open(body, headers, stream=stream)
        return self._group.call(
            self.session,
            lambda upstream: upstream.open(body, headers, stream=stream),
            _begun,
            self._chosen,
            whole=_is_whole,
            keyed=any(name == "authorization" for name, _ in headers),
        )

    def forward(
        self,
        method: str,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes | AsyncIterator[bytes] | None,
        *,
        keep_authorization: bool = True,
    ) -> AbstractAsyncContextManager[Forwarded]:
        """As ``Upstream.forward``; a body that is all there goes on to another replica where one cannot."""

        def begin(upstream: Upstream) -> AbstractAsyncContextManager[Forwarded]:
            return upstream.forward(method, target, headers, body, keep_authorization=keep_authorization)

        if only := self._group.only:
            return begin(only)
        again = body is None or isinstance(body, bytes)
        proves = method == "POST"  # which asks a model
        keyed = keep_authorization and any(name.lower() in KEYS for name, _ in headers)
        return self._group.call(
            self.session, begin, _refusal, self._chosen, whole=_is_whole, again=again, proves=proves, keyed=keyed
        )

    async def ask(
        self,
        method: str,
        path: str,
        body: Any | None = None,
        headers: Sequence[tuple[str, str]] = (),
        *,
        limit: int = BODY_LIMIT,
    ) -> Any:
        """As ``Upstream.ask``, of the replica that the session's calls go to.

        What it refuses, at whatever status, says nothing of it: many servers have no such endpoint.
        """
        if only := self._group.only:
            return await only.ask(method, path, body, headers, limit=limit)

        @asynccontextmanager
        async def begin(upstream: Upstream) -> AsyncIterator[Any]:
            try:
                answer = await upstream.ask(method, path, body, headers, limit=limit)
            except (UpstreamUnreachable, UpstreamTimeout):
                raise
            except UpstreamError as exc:
                answer = exc
            yield answer

        async with self._group.call(self.session, begin, _whole, self._chosen, proves=False) as answer:
            if isinstance(answer, UpstreamError):
                raise answer
            return answer

    def _chosen(self, name: str) -> None:
        self.name = name


async def _begun(reply: Reply) -> UpstreamError | None:
    """What an answer says of its replica by beginning with an error, as vLLM's streams do at status 200."""
    for chunk in (await reply.begin())[:1]:
        if isinstance(chunk, dict) and (chunk.get("error") or chunk.get("object") == "error"):
            return from_upstream(chunk, reply.status, reply.headers)
    return None


async def _refusal(answer: Forwarded) -> UpstreamError | None:
    """What an answer says of its replica, though it can be passed on."""
    if answer.status != 429 and answer.status < 500:
        return None
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
    return UpstreamError(f"The upstream answered {answer.status}.", status=answer.status, headers=headers)


async def _whole(_answer: Any) -> None:
    return None


def _is_whole(answer: Reply | Forwarded) -> bool | None:
    return answer.whole

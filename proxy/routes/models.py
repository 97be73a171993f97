"""``/v1/models`` of several groups of upstreams as one list (wire §3.10)."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from proxy.errors import ModelNotFound, UpstreamError, UpstreamTimeout
from proxy.grants import EVERYTHING, Grant
from proxy.routes.edge import answer, facts
from proxy.upstream import Pool, Served, Target, forwarded

log = logging.getLogger(__name__)

_PATH = re.compile(r"/v1(?:/openai/v1)?/models(?:/(.+))?\Z", re.DOTALL)

_PATIENCE = 5.0
"""Seconds that a group's list may take, other replicas included: everybody waits for the slowest group."""

Model = dict[str, Any]


@dataclass(frozen=True)
class Models:
    """``keep_authorization``: False where the caller's Authorization is statecar's own key."""

    pool: Pool
    keep_authorization: bool

    def serves(self, scope: Scope, path: str) -> bool:
        """Whether a request asks for models that are not simply all of one upstream's. ``path``: in its plain form."""
        if scope["method"] not in ("GET", "HEAD") or (self.pool.is_single and not _grant(scope).models):
            return False
        return _PATH.match(path) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises UpstreamError where no group tells its models, ModelNotFound for one that is not among them."""
        grant = _grant(scope)
        wanted = _PATH.match(scope["path"])
        assert wanted
        facts(scope).update(route="/v1/models/{model}" if wanted[1] else "/v1/models", passed_on=False)
        models = {id_: model for id_, model in (await self._all(scope)).items() if grant.covers(id_)}
        if not wanted[1]:
            told: Any = {"object": "list", "data": list(models.values())}
        elif (model := models.get(wanted[1]) or models.get(unquote(wanted[1]))) is not None:
            told = model
        else:
            raise ModelNotFound(wanted[1])
        await answer(told)(scope, receive, send)

    async def _all(self, scope: Scope) -> dict[str, Model]:
        """Every model by the name that clients use, in the order of the groups."""
        headers = forwarded(Request(scope).headers.raw, keep_authorization=self.keep_authorization)
        asked = (
            self._of(served, target, headers)
            for served, target in zip(self.pool.served, self.pool.targets(), strict=True)
        )
        answers = await asyncio.gather(*asked, return_exceptions=True)
        found: dict[str, Model] = {}
        for each in answers:
            if isinstance(each, BaseException) and not isinstance(each, UpstreamError):
                raise each
            for id_, model in each.items() if isinstance(each, dict) else ():
                found.setdefault(id_, model)
        refused = [each for each in answers if isinstance(each, UpstreamError)]
        if len(refused) == len(answers):
            raise refused[0]
        return found

    async def _of(self, served: Served, target: Target, headers: list[tuple[str, str]]) -> dict[str, Model]:
        """What a group has of that which it serves, and its aliases. Raises UpstreamError."""
        try:
            try:
                async with asyncio.timeout(_PATIENCE):
                    told = await target.ask("GET", "/v1/models", headers=headers)
            except TimeoutError:
                raise UpstreamTimeout(f"The upstream did not tell its models within {_PATIENCE:g} s.") from None
            listed = told.get("data") if isinstance(told, dict) else None
            if not isinstance(listed, list):
                raise UpstreamError("The upstream's list of models is none.")
        except UpstreamError as exc:
            log.warning("group %s: its models are missing from the list: %s", served.group.name, exc.message)
            raise
        own = {model["id"]: model for model in listed if isinstance(model, dict) and isinstance(model.get("id"), str)}
        found = {id_: model for id_, model in own.items() if self.pool.serves(id_) is served}
        for alias, meant in served.aliases:
            if meant in own and self.pool.serves(alias) is served:
                found[alias] = {**own[meant], "id": alias}
        return found


def _grant(scope: Scope) -> Grant:
    grant: Grant = scope.get("statecar.grant", EVERYTHING)
    return grant

"""What the operator bound to OpenAI's own tool types: a search service, or a tool of one of his MCP servers.

An MCP tool is asked by whatever its schema calls a query or code, and answers as JSON or as text: both are understood.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.errors import ToolServerError
from proxy.hosted.answers import files_in, logs_in, pages_in
from proxy.hosted.arguments import Wanted, fitted
from proxy.hosted.box import Answer, Binding, Box
from proxy.hosted.filters import matches
from proxy.hosted.outcomes import cut, outcome
from proxy.hosted.search import Failed, Found, Search, bounded
from proxy.hosted.web_search import PROVIDERS, WebSearch
from proxy.settings import Settings

_SCHEMA_KEPT = 300.0  # seconds
_QUERIES = 8  # most searches of one file_search call
_FILE_COUNT, _FILE_SIZE = 10, 4000  # results, and characters of each, where the request does not say
_ATTRIBUTES, _LONGEST_KEY, _LONGEST_VALUE = 16, 64, 512  # of a result, as OpenAI has them

_LARGEST_IMAGE = 1024 * 1024
"""Characters of a data URL; larger images are named in the logs only."""


def open_bindings(settings: Settings) -> dict[str, Binding]:
    """What runs each bound type: web_search, file_search, code_interpreter."""
    limit = settings.tool_output_limit
    bound: dict[str, Binding] = {}
    if settings.web_search.startswith("mcp:"):
        bound["web_search"] = McpWebSearch(_tool(settings.web_search), limit)
    elif settings.web_search:
        service, _, base = settings.web_search.partition("+")
        provider = PROVIDERS[service](base, settings.web_search_key)
        bound["web_search"] = WebSearch(provider, settings.tool_timeout, limit)
    if settings.file_search:
        bound["file_search"] = McpFileSearch(_tool(settings.file_search), limit)
    if settings.code_interpreter:
        bound["code_interpreter"] = McpCodeInterpreter(_tool(settings.code_interpreter), limit)
    return bound


@dataclass
class ConnectorTool:
    """A tool of an operator's MCP server. Its schema is asked for now and then."""

    connector: str
    name: str
    _schema: Mapping[str, Any] = field(default_factory=dict)
    _until: float = 0.0

    async def ask(self, box: Box, wanted: Wanted) -> tuple[dict[str, Any], list[Answer]]:
        """(what the tool was asked first, the answers to all the calls that ``wanted`` comes to).

        Raises Failed where there is nothing to call.
        """
        calls = fitted(await self._described(box), wanted)
        if not calls:
            raise Failed(f"The tool {self.name!r} that is bound here takes no argument for it. Tell the operator.")
        asked = (box.ask_connector(self.connector, self.name, call) for call in calls)
        return calls[0], await asyncio.gather(*asked)

    async def _described(self, box: Box) -> Mapping[str, Any]:
        if time.monotonic() > self._until:
            try:
                listed = await box.connector_tools(self.connector)
            except (ToolServerError, TimeoutError) as exc:
                why = exc.for_log if isinstance(exc, ToolServerError) else "It took too long."
                raise Failed(f"The tool server that is bound here could not be asked. {why}", 503) from exc
            schema = next((tool["input_schema"] for tool in listed if tool["name"] == self.name), None)
            if schema is None:
                raise Failed(f"The tool server that is bound here has no tool {self.name!r}. Tell the operator.")
            self._schema, self._until = schema, time.monotonic() + _SCHEMA_KEPT
        return self._schema


def _tool(text: str) -> ConnectorTool:
    """``mcp:CONNECTOR/TOOL``."""
    connector, _, name = text.removeprefix("mcp:").partition("/")
    return ConnectorTool(connector, name)


@dataclass
class McpBinding(ABC):
    """A type that an MCP tool runs. ``limit``: bytes of what the model reads."""

    tool: ConnectorTool
    limit: int

    async def run(self, box: Box, tool: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
        """The outcome of a call; one that fails says so and raises nothing."""
        try:
            return await self._run(box, tool, arguments)
        except Failed as exc:
            return exc.outcome(f"mcp:{self.tool.connector}/{self.tool.name}")

    async def aclose(self) -> None:  # noqa: B027  a binding has one
        """Nothing is held open: sessions are the box's."""

    @abstractmethod
    async def _run(self, box: Box, tool: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The same; raises Failed."""

    def _failed(self, error: dict[str, Any]) -> dict[str, Any]:
        """The outcome where every answer is an error; the model reads the first."""
        parts = error.get("content") or [{"text": error.get("message")}]
        said = "\n".join(str(part.get("text")) for part in parts)
        return outcome(cut(f"The tool failed: {said}", self.limit), error)

    def _in_words(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The outcome of answers that hold no results in any form that is known."""
        said = "\n\n".join(answer.text for answer in answers if answer.text.strip())
        return outcome(cut(said, self.limit) or "No results.")


class McpWebSearch(McpBinding):
    async def _run(self, box: Box, tool: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        search = Search.read(tool, arguments)
        _, answers = await self.tool.ask(box, Wanted.web(search, tool))
        told = [answer for answer in answers if answer.error is None]
        if not told and answers[0].error:
            return self._failed(answers[0].error)
        pages = [page for answer in told for page in pages_in(answer.text, answer.structured)]
        if not pages:
            return self._in_words(told)
        found = search.fitting(pages, self.limit)
        return outcome("" if found else "No results.", found=found)


class McpFileSearch(McpBinding):
    async def _run(self, box: Box, tool: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        queries = [query for query in _texts(arguments.get("queries")) if query.strip()]
        if not queries:
            raise Failed("The search was not made: its arguments must have 'queries', a list of texts.", 400)
        count = tool.get("max_num_results") or _FILE_COUNT
        given, answers = await self.tool.ask(box, Wanted.files(queries[:_QUERIES], count, tool))
        told = [answer for answer in answers if answer.error is None]
        if not told and answers[0].error:
            return self._failed(answers[0].error)
        files = [file for answer in told for file in files_in(answer.text, answer.structured)]
        if not files:
            return self._in_words(told)
        if (filters := tool.get("filters")) and filters not in given.values():
            files = [file for file in files if matches(filters, file["attributes"])]
        lowest = (tool.get("ranking_options") or {}).get("score_threshold") or 0
        found = bounded(_best(files, lowest), count, _FILE_SIZE, self.limit)
        return outcome("" if found else "No results.", found=[_as_result(file) for file in found])


class McpCodeInterpreter(McpBinding):
    async def _run(self, box: Box, tool: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        code = arguments.get("code")
        if not isinstance(code, str) or not code.strip():
            raise Failed("Nothing was run: the arguments must have 'code', a text that is not empty.", 400)
        _, (answer, *_) = await self.tool.ask(box, Wanted.code(code, tool))
        if answer.error:
            return self._failed(answer.error)
        logs = cut(logs_in(answer.text, answer.structured), self.limit)
        shown = [{"type": "image", "url": url} for url in answer.images if len(url) <= _LARGEST_IMAGE]
        told = [{"type": "logs", "logs": logs}] if logs.strip() else []
        return outcome(logs if told else "(no output)", outputs=[*told, *shown])


def _texts(given: Any) -> list[str]:
    return [text for text in (given if isinstance(given, list) else [given]) if isinstance(text, str)]


def _best(files: Sequence[Found], lowest: float) -> list[Found]:
    """Each passage once, those of a score that is too low left out, the best first where all have one."""
    once = {(file["file_id"], file["text"]): file for file in files if file["score"] is None or file["score"] >= lowest}
    kept = list(once.values())
    if all(file["score"] is not None for file in kept):
        kept.sort(key=lambda file: -float(file["score"]))
    return kept


def _as_result(file: Found) -> Found:
    """A passage as clients demand a result: a score is a number, 0 where none was given, and attributes are few."""
    short = {
        key: value[:_LONGEST_VALUE] if isinstance(value, str) else value for key, value in file["attributes"].items()
    }
    few = [(key, value) for key, value in short.items() if len(key) <= _LONGEST_KEY][:_ATTRIBUTES]
    return {**file, "score": file["score"] or 0.0, "attributes": dict(few)}

"""Chat-completion chunks in, Responses events out (wire §8, §9, §11.5–11.7). No I/O, no clock, no randomness.

One state machine, kept whole: what may be open, held or counted is known here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from typing import Any

from proxy.errors import StatecarError, UpstreamError, from_upstream
from proxy.translate import reply
from proxy.translate.calls import Assembler, Call, Delta
from proxy.translate.items import Event, Item, Message, OutputItem, Reasoning, ReasoningSummary, Seal
from proxy.translate.response import Response, moved, snapshot, usage
from proxy.translate.text import ThinkTags
from proxy.translate.told import Telling, Tokens
from proxy.translate.tool_calls import TOOL_CALLS, ToolCall
from proxy.translate.tools import ToolPlan


class ResponseStream:
    """``start``, ``feed`` every chunk, ``finish`` (or ``fail``), ``end``: each gives the events to send, in order.

    ``response`` is at any time the Response object. A response may take several upstream calls: ``end_round`` closes
    what is open and returns the calls made, and feeding goes on; numbers and indexes run through all rounds. Each event
    leaves through ``_emit``, the only place that counts. ``told``: tokens of the answer that an earlier call gave.
    """

    _text: Message | Reasoning | ReasoningSummary | None
    _tags: ThinkTags | None
    told: Tokens | None

    def __init__(  # noqa: PLR0913  all that a reply is read with
        self,
        response: Response,
        new_item_id: Callable[[str], str],
        new_call_id: Callable[[], str],
        *,
        tools: ToolPlan | None = None,
        call_ids: Iterable[str] = (),
        think_tags: bool = False,
        logprobs: bool = False,
        seal: Seal | None = None,
    ) -> None:
        """``response``: the skeleton. ``new_item_id``: item type to a fresh id. ``tools``: the plan that was sent; may
        be set anew before the first chunk. ``call_ids``: those that stand in the context already. ``think_tags``: split
        them off. ``logprobs``: they were asked for. ``seal``: gives each thought, as it ends, ``encrypted_content``.
        """
        self.response = response
        self.started = False
        self.items: list[OutputItem] = []
        self.failure: UpstreamError | None = None
        self.finish_reason: str | None = None
        self._new_item_id, self._new_call_id = new_item_id, new_call_id
        self.tools, self._call_ids = tools or ToolPlan(), set(call_ids)
        self._seal = seal
        self._think_tags, self._logprobs = think_tags, logprobs
        self._summary = bool(response["reasoning"].get("summary"))
        self._model: str | None = None
        self._tier: str | None = None
        self._usage: list[dict[str, Any]] = []
        self._placed: list[Event] = []
        self._sequence = 0
        self._created = False
        self._ended = False
        self._fed = False
        self._begin_round()

    # -- the verbs of a turn

    def queue(self) -> list[Event]:
        """The opening of a response that somebody will make: ``response.created`` and ``response.queued`` (§9.5)."""
        self.response["status"] = "queued"
        events = self._emit(map(self._lifecycle, ("created", "queued")))
        self._created = True
        return events

    def resume(self, telling: Telling, *, go_on: bool) -> None:
        """Begins where another process stopped. ``go_on``: the text it was writing is written on, if there is one."""
        self._sequence, self._created = telling.sequence, telling.told
        self.items = telling.items
        self.started = telling.began
        if go_on and (text := telling.text):
            self.items[-1] = self._text = text
            self._round_start = len(self.items) - 1
            self.told, self._tags = telling.deltas, None

    def start(self) -> list[Event]:
        """``response.created`` and ``response.in_progress``, then what was placed before (wire §9.4)."""
        self.started = True
        self.response["status"] = "in_progress"
        told = ("in_progress",) if self._created else ("created", "in_progress")
        self._created = True
        return self._emit([*map(self._lifecycle, told), *self._placed])

    def keepalive(self) -> Event | None:
        """A repeated ``response.in_progress`` while nothing is written; None when only a comment is safe (§9.9)."""
        if not self.started or self.items or self._ended or self.response["status"] != "in_progress":
            return None
        return self._emit([self._lifecycle("in_progress")])[0]

    def feed(self, chunk: dict[str, Any]) -> list[Event]:
        """The events of one chunk, or of a whole plain reply. An error inside it is kept in ``failure``."""
        if self.is_error(chunk):
            self.failure = from_upstream(chunk, 200)
            return []
        self._read_frame(chunk)
        choice = reply.first_choice(chunk)
        if choice is None:
            return []
        delta = reply.delta_of(choice, fresh=len(self.items) == self._round_start and not self._blank)
        self._fed = True
        events = self._emit(self._delta(delta, choice.get("logprobs")))
        if not self.failure:
            self._read_finish(choice)
        return events

    @staticmethod
    def is_error(chunk: dict[str, Any]) -> bool:
        """Whether a payload is an error in the place of a chunk (wire §11.5)."""
        return bool(chunk.get("error")) or chunk.get("object") == "error"

    def end_round(self) -> tuple[list[Event], list[ToolCall]]:
        """Closes what is open and returns the calls of this upstream call; then the next round may be fed."""
        events = self._emit(chain(self._drain(), self._close("completed")))
        calls = [item for item in self._calls.values() if item]
        self._usage = self._figures()
        self._begin_round()
        return events, calls

    def again(self) -> None:
        """Forgets an upstream call that failed before it gave anything to tell; the next one may be fed."""
        self.failure = None
        self._begin_round()

    def finish(self, now: int, *, done: bool) -> list[Event]:
        """Closes everything: ``response`` is then final, and ``end`` gives its terminal event.

        ``now``: Unix seconds. ``done``: the upstream said that it was finished (``[DONE]``, or a plain reply). Raises
        UpstreamError, with nothing emitted, when the reply is none: cut off, without choices, without a permitted call.
        """
        self._check_whole(done)
        reason = reply.INCOMPLETE.get(self.finish_reason or "")
        status = "incomplete" if reason else "completed"
        events = self._emit(self._wrap_up(status))
        self._settle(status)
        self.response["incomplete_details"] = {"reason": reason} if reason else None
        self.response["completed_at"] = None if reason else now
        self.response["usage"] = usage(*self._figures())
        return events

    def fail(self, error: StatecarError | None) -> None:
        """Ends the response as failed, or without an error as cancelled; keeps what was written (wire §3.4, §9.5).

        What is open gets no more events.
        """
        for item in self.items:
            if not item.closed:
                item.cut()
        self._settle("failed" if error else "cancelled")
        figures = self._figures()
        self.response.update(
            error=error.as_response_error() if error else None,
            incomplete_details=None,
            completed_at=None,
            usage=usage(*figures) if figures else None,
        )

    def end(self) -> Event:
        """The terminal event: completed, incomplete or failed, which a cancelled response's is too. The last one.

        Asked for again, after a failure to keep what it says, it has the same number.
        """
        self._ended = True
        status = self.response["status"]
        event = self._lifecycle("failed" if status == "cancelled" else status)
        event["sequence_number"] = self._sequence
        return event

    def error_event(self, error: StatecarError) -> Event:
        """A flat ``error`` event before ``end``, for clients that see no other failure; by option only (wire §9.8)."""
        told = error.as_response_error()
        event = {"type": "error", "sequence_number": 0, "code": told["code"], "message": told["message"], "param": None}
        return self._emit([event])[0]

    def place(self, item: OutputItem, made_by: ResponseStream) -> list[Event]:
        """The events of an item that comes whole; before ``start``, which then gives them, none.

        ``made_by``: the stream of the call behind the item; its usage counts.
        """
        self.items.append(item)
        self._usage = [*self._usage, *made_by._figures()]
        self._round_start = len(self.items)
        events = [*item.open(), *item.close("completed")]
        if self.started:
            return self._emit(events)
        self._placed += events
        return []

    def stored_output(self) -> list[Item]:
        """The output items as they are kept."""
        return [item.stored() for item in self.items]

    @property
    def usage_missing(self) -> bool:
        """Whether the upstream gave no figures."""
        return not self._figures()

    # -- one chunk

    def _begin_round(self) -> None:
        self._tags = ThinkTags() if self._think_tags else None
        self._text = None
        self._assembler = Assembler()
        self._calls: dict[Call, ToolCall | None] = {}
        self._blank: list[tuple[str, list[Item]]] = []
        self._blank_thought = ""
        self._annotations: list[Item] = []
        self._round_usage: dict[str, Any] | None = None
        self._fed = False
        self._round_start = len(self.items)
        self._blank_finish = False
        self.finish_reason = None
        self.told = None

    def _read_frame(self, chunk: dict[str, Any]) -> None:
        if isinstance(given := chunk.get("usage"), dict) and given:
            # cumulative where it comes with every chunk: the last one counts
            self._round_usage = moved(given, self.told) if self.told else given
        if isinstance(model := chunk.get("model"), str) and model:
            self._model = model
        if isinstance(tier := chunk.get("service_tier"), str):
            self._tier = tier

    def _read_finish(self, choice: dict[str, Any]) -> None:
        reason = choice.get("finish_reason")
        if reason in reply.FAILED:
            error = choice.get("error") or f"The upstream ended with finish reason '{reason}'."
            self.failure = from_upstream({"error": error}, 200)
        elif reason == "":
            self._blank_finish = True  # some send it instead of null on every chunk
        elif reason is not None and self.finish_reason is None:
            self.finish_reason = str(reason).lower()

    def _delta(self, delta: dict[str, Any], logprobs: Any) -> Iterator[Event]:
        text, beside = reply.text_of(delta)
        if self._tags and text:
            beside, text = self._tags.feed(text)
        for thought, number in reply.thoughts_of(delta) or [(beside, None)]:
            if thought:
                yield from self._think(thought, number)
        if text:
            logged = reply.logprobs_of(logprobs) if self._logprobs and logprobs else []
            yield from self._write(text, reply.of_text(logged, text) if logged else [])
        if refusal := reply.refusal_of(delta):
            message = yield from self._message()
            yield from message.refusal(refusal)
        for annotation in reply.annotations_of(delta):
            if isinstance(self._text, Message):
                yield from self._text.annotation(annotation)
            else:
                self._annotations.append(annotation)
        for entry in reply.calls_of(delta):
            yield from self._call(self._assembler.feed(entry))

    def _think(self, thought: str, number: int | None) -> Iterator[Event]:
        """Blank thought opens no item: transformers send it where the model does not think at all."""
        if not isinstance(self._text, Reasoning | ReasoningSummary):
            if thought.isspace():
                self._blank_thought += thought
                return
            if self.told:  # a parser that takes the rest for a thought
                self.failure = UpstreamError("The upstream did not go on with the text that had begun.")
                return
            thought = self._blank_thought + thought
            yield from self._close("completed", keep=Call.may_go_on_after_text)
            kind = ReasoningSummary if self._summary else Reasoning
            self._text = kind(len(self.items), self._new_item_id("reasoning"), self._seal)
            yield from self._open(self._text)
        yield from self._text.delta(thought, number)

    def _write(self, text: str, logprobs: list[Item]) -> Iterator[Event]:
        """Blank text opens no message: it is held until something tells what it belongs to (wire §11.5)."""
        if not isinstance(self._text, Message) and text.isspace():
            self._blank.append((text, logprobs))
            return
        message = yield from self._message()
        yield from message.text(text, logprobs)

    def _message(self) -> Generator[Event, None, Message]:
        """The open message, opened now if need be, with the blank text and the citations that were held for it."""
        if isinstance(self._text, Message):
            return self._text
        held = self._blank
        yield from self._close("completed", keep=Call.may_go_on_after_text)
        self._text = message = Message(len(self.items), self._new_item_id("message"))
        yield from self._open(message)
        if held:
            text = "".join(piece for piece, _ in held)
            yield from message.text(text, [entry for _, entries in held for entry in entries])
        for annotation in self._annotations:
            yield from message.annotation(annotation)
        self._annotations = []
        return message

    def _call(self, change: Delta) -> Iterator[Event]:
        call, arguments = change.call, change.arguments
        if call not in self._calls:
            if not call.name:
                call.held.append(arguments)
                return
            if self.tools.allowed is not None and call.name not in self.tools.allowed:
                self._calls[call] = None
                return
            yield from self._open_call(call)
            arguments = "".join(call.held) + arguments
        item = self._calls[call]
        if item and not item.closed:
            yield from item.delta(arguments)

    def _open_call(self, call: Call) -> Iterator[Event]:
        yield from self._drain()
        yield from self._close("completed", keep=Call.may_go_on)
        if not call.id or call.id in self._call_ids:
            call.id = self._new_call_id()
        self._call_ids.add(call.id)
        origin = self.tools.origin(call.name, custom=call.custom)
        item = TOOL_CALLS[origin.item](len(self.items), self._new_item_id(origin.item), call, origin)
        self._calls[call] = item
        yield from self._open(item)

    # -- opening and closing

    def _open(self, item: OutputItem) -> Iterator[Event]:
        self.items.append(item)
        yield from item.open()

    def _close(self, last: str, keep: Callable[[Call], bool] | None = None) -> Iterator[Event]:
        """Closes the open items in index order; the very last of all, and any broken one, with status ``last``.

        ``keep``: which calls stay open; the deltas of parallel calls may alternate.
        """
        self._text, self._blank, self._blank_thought = None, [], ""
        for item in self.items:
            if item.closed:
                continue
            if keep and isinstance(item, ToolCall) and keep(item.call):
                continue
            yield from item.close(last if item is self.items[-1] or item.broken else "completed")

    def _drain(self) -> Iterator[Event]:
        """What was held back because it might have become a tag."""
        if self._tags and (rest := self._tags.flush()):
            yield from self._think(rest, None) if self._tags.thinking else self._write(rest, [])

    def _wrap_up(self, last: str) -> Iterator[Event]:
        yield from self._drain()
        if self._fed and len(self.items) == self._round_start:
            yield from self._message()
        yield from self._close(last)

    def _check_whole(self, done: bool) -> None:
        items = self.items[self._round_start :]
        if self.finish_reason is None and not self._blank_finish:
            if not done:
                raise UpstreamError("The upstream closed the stream before it finished.")
            if not self._fed:
                raise UpstreamError("The upstream returned no choices.")
            if not items and not self._blank:
                raise UpstreamError("The upstream ended its answer without any output.")
        if all(isinstance(item, Reasoning | ReasoningSummary) for item in items) and not self._blank:
            if None in self._calls.values():
                raise UpstreamError("The model called only tools that 'tool_choice' does not allow.")
            if any(not call.name for call in self._assembler.calls):
                raise UpstreamError("The upstream sent tool calls without names.")

    def _settle(self, status: str) -> None:
        self.response["status"] = status
        self.response["output"] = [dict(item.item) for item in self.items]
        self.response["service_tier"] = self._tier or "default"
        self.response["model"] = self._model or self.response["model"]

    def _figures(self) -> list[dict[str, Any]]:
        return [*self._usage, self._round_usage] if self._round_usage else self._usage

    def _lifecycle(self, name: str) -> Event:
        return {"type": f"response.{name}", "sequence_number": 0, "response": snapshot(self.response)}

    def _emit(self, events: Iterable[Event]) -> list[Event]:
        numbered = []
        for event in events:
            event["sequence_number"] = self._sequence
            self._sequence += 1
            numbered.append(event)
        return numbered

"""Chat-completion chunks in, Responses events out (wire §8, §9, §11.5–11.7). No I/O, no clock, no randomness.

One state machine, kept whole: what may be open or held is known here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from proxy.chunks import Chunk, Texts
from proxy.errors import UpstreamError
from proxy.refusals import from_upstream
from proxy.translate import reply
from proxy.translate.calls import Call, Delta
from proxy.translate.citations import Sources
from proxy.translate.figures import Figures
from proxy.translate.hosted_calls import HostedCall, answered, of_hosted
from proxy.translate.hosted_items import known_of
from proxy.translate.hosting import Outcome
from proxy.translate.items import Event, Item, Message, OutputItem, Reasoning, ReasoningSummary, Seal
from proxy.translate.lifecycle import Lifecycle
from proxy.translate.made_calls import MadeCalls
from proxy.translate.response import Response, usage
from proxy.translate.round import Round
from proxy.translate.text import ThinkTags
from proxy.translate.told import Telling, Tokens, Told
from proxy.translate.tool_calls import ToolCall
from proxy.translate.tools import ToolPlan


class ResponseStream(Lifecycle):
    """``start``, ``feed`` every chunk, ``finish`` (or ``fail``), ``end``: each gives the events to send, in order.

    ``response`` is at any time the Response object. A response may take several upstream calls: ``end_round`` closes
    what is open and returns the calls made, and feeding goes on; numbers and indexes run through all rounds. Hosted
    calls wait for ``answer``. Each event leaves through ``_emit``, which counts. ``told``: tokens of the
    answer that an earlier call gave. ``hosted_left``: how many hosted calls are not yet ignored, None for any number.
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
        include: Iterable[str] = (),
    ) -> None:
        """``response``: the skeleton. ``new_item_id``: item type to a fresh id. ``tools``: the plan that was sent; may
        be set anew before a first chunk. ``call_ids``: those that stand in the context already. ``think_tags``: split
        them off. ``logprobs``: they were asked for. ``seal``: gives each thought, as it ends, ``encrypted_content``.
        ``include``: what else was asked for (wire §10.9).
        """
        super().__init__(response)
        self.failure: UpstreamError | None = None
        self.finish_reason: str | None = None
        self.hosted_left: int | None = None
        self._new_item_id = new_item_id
        self.tools, self._made = tools or ToolPlan(), MadeCalls(new_item_id, new_call_id, call_ids, include)
        self._seal, self._think_tags, self._logprobs = seal, think_tags, logprobs
        self._summary = bool(response["reasoning"].get("summary"))
        self._sources = Sources()
        self._plain: Chunk | None = None  # the last chunk, if it brought nothing but a piece of ``_text``
        self._begin_round()

    # -- the verbs of a turn

    def resume(self, telling: Telling, *, go_on: bool) -> None:
        """Begins where another process stopped. ``go_on``: the text it was writing is written on, if there is one."""
        self._outlet.sequence, self._created = telling.sequence, telling.told
        self.items, self.figures = [*telling.items], Figures(telling.kept.usages)
        self.started, self._round.start, self._round.over = telling.began, len(self.items), telling.is_whole
        if go_on and (text := telling.text):
            self.items[-1] = self._text = text
            text.cite(self._sources)
            self._round.start = len(self.items) - 1
            self.told, self._tags = telling.deltas, None

    def learn(self, context: Iterable[Item]) -> None:
        """What searches have found by now, in items as they are stored, may be cited too."""
        for item in context:
            self._sources.learn(known_of(item))

    def feed_all(self, batch: Iterable[Chunk | Texts]) -> list[Event]:
        """The events of the chunks of one read, up to an error. The stream begins with its first chunk, unless that is
        one (wire §2.6).
        """
        events: list[Event] = []
        for chunk in batch:
            if isinstance(chunk, Texts):
                events += self._feed_texts(chunk)
            else:
                if not self.started and not reply.is_error(chunk):
                    events += self.start()
                events += self.feed(chunk)
            if self.failure:
                break
        return events

    def feed(self, chunk: Chunk) -> list[Event]:
        """The events of one chunk, or of a whole plain reply. An error inside it is kept in ``failure``."""
        if (item := self._text) and not (self._tags or self._logprobs):
            if piece := reply.only_piece(chunk, item.spelled, self.figures.model, self.figures.tier):
                self._round.fed, self._plain = True, chunk  # the short way of nearly every chunk: 1.3 us instead of 7
                return self._emit(item.more(piece))
        self._plain = None
        if reply.is_error(chunk):
            self.failure = from_upstream(chunk, 200)
            return []
        self.figures.read(chunk, self.told)
        choice = reply.first_choice(chunk)
        if choice is None:
            return []
        delta = reply.delta_of(choice, fresh=len(self.items) == self._round.start and not self._round.blank)
        self._round.fed = True
        events = self._emit(self._delta(delta, choice.get("logprobs")))
        if not self.failure:
            self._read_finish(choice)
        return events

    def _feed_texts(self, texts: Texts) -> list[Event]:
        """The events of chunks that repeat one: with nothing but text in it, each is only that much more: 0.4 us."""
        events: list[Event] = []
        for at, text in enumerate(texts):
            if texts.like is self._plain and (item := self._text):
                return events + self._emit(item.many(texts[at:] if at else texts))
            chunk = texts.chunk(text)
            events += self.feed(chunk)
            if self.failure:
                break
            if self._plain is chunk:
                self._plain = texts.like
        return events

    @property
    def is_over(self) -> bool:
        """Whether an upstream call has ended well and no other has begun."""
        return self._round.over

    @property
    def has_finish(self) -> bool:
        """Whether the upstream call's answer has said that it ends, in whatever words."""
        return self.finish_reason is not None or self._round.blank_finish

    @property
    def hosted_calls(self) -> list[HostedCall]:
        """The hosted calls that are written out and have no outcome, in order; none of a reply that was cut off."""
        return [item for item in of_hosted(self.items) if item.waits and self.finish_reason not in reply.INCOMPLETE]

    def end_round(self, *, done: bool) -> tuple[list[Event], list[ToolCall]]:
        """Closes what is open, hosted calls aside, and returns the calls made; then the next round may be fed, or not.

        A reply that was cut off is left to ``finish``, and none of its calls may run. ``done`` and what is raised: as
        there.
        """
        self._round.check_whole(self.items, self.finish_reason, done=done)
        if self.finish_reason in reply.INCOMPLETE:
            return [], []
        events = self._emit(self._wrap_up("completed"))
        calls = [item for item in self._round.calls.values() if item]
        self.figures.end_round()
        self._begin_round()
        self._round.over = True
        return events, calls

    def begin_call(self, call: HostedCall) -> list[Event]:
        """The events of a hosted call that begins to run."""
        return self._tell(call.begin())

    def answer(self, call: HostedCall, outcome: Outcome) -> list[Event]:
        """The events of a hosted call's outcome. Its item is done when those of all earlier calls are."""
        return self._tell(answered(self.items, call, outcome, self._sources))

    def end_calls(self, why: str) -> list[Event]:
        """The events that are missing of calls that another process left without an end; ``why``: they have none."""
        return self._tell([event for item in self.items if isinstance(item, Told) for event in item.ended(why)])

    def again(self) -> None:
        """Another call follows, which may be fed: one that failed before it gave anything to tell is forgotten."""
        self.failure = None
        self.figures.forget_round()
        self._begin_round()

    def finish(self, now: int, *, done: bool) -> list[Event]:
        """Closes everything: ``response`` is then final, and ``end`` gives its terminal event.

        ``now``: Unix seconds. ``done``: the upstream said that it was finished (``[DONE]``, or a plain reply). Raises
        UpstreamError, with nothing emitted, when the reply is none: cut off, without choices, without a permitted call.
        """
        if not self._round.over:
            self._round.check_whole(self.items, self.finish_reason, done=done)
        reason = reply.INCOMPLETE.get(self.finish_reason or "")
        status = "incomplete" if reason else "completed"
        events = self._emit(self._wrap_up(status))
        self._settle(status)
        self.response["incomplete_details"] = {"reason": reason} if reason else None
        self.response["completed_at"] = None if reason else now
        self.response["usage"] = usage(*self.figures.usages)
        return events

    def place(self, item: OutputItem, made_by: ResponseStream) -> list[Event]:
        """``host`` for an item that a model made; the usage of ``made_by``, the stream of that call, counts."""
        self.figures.add(made_by.figures)
        return self.host(item)

    def host(self, item: OutputItem) -> list[Event]:
        """The events of an item that comes whole, or of a hosted call that is written out; before ``start`` none."""
        events = [*self._open(item), *item.close("completed")]
        self._round.start = len(self.items)
        return self._tell(events)

    # -- one chunk

    def _begin_round(self) -> None:
        self._tags = ThinkTags() if self._think_tags else None
        self._text = None
        self._round = Round(len(self.items))
        self.finish_reason = None
        self.told = None

    def _read_finish(self, choice: dict[str, Any]) -> None:
        reason = choice.get("finish_reason")
        if reason in reply.FAILED:
            error = choice.get("error") or f"The upstream ended with finish reason '{reason}'."
            self.failure = from_upstream({"error": error}, 200)
        elif reason == "":
            self._round.blank_finish = True  # some send it instead of null on every chunk
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
                self._round.annotations.append(annotation)
        for entry in reply.calls_of(delta):
            yield from self._call(self._round.assembler.feed(entry))

    def _think(self, thought: str, number: int | None) -> Iterator[Event]:
        """Blank thought opens no item: transformers send it where the model does not think at all."""
        if not isinstance(self._text, Reasoning | ReasoningSummary):
            if thought.isspace():
                self._round.blank_thought += thought
                return
            if self.told:  # a parser that takes the rest for a thought
                self.failure = UpstreamError("The upstream did not go on with the text that had begun.")
                return
            thought = self._round.blank_thought + thought
            yield from self._close("completed", keep=Call.may_go_on_after_text)
            kind = ReasoningSummary if self._summary else Reasoning
            self._text = kind(len(self.items), self._new_item_id("reasoning"), self._seal)
            yield from self._open(self._text)
        yield from self._text.delta(thought, number)

    def _write(self, text: str, logprobs: list[Item]) -> Iterator[Event]:
        """Blank text opens no message: it is held until something tells what it belongs to (wire §11.5)."""
        if not isinstance(self._text, Message) and text.isspace():
            self._round.blank.append((text, logprobs))
            return
        message = yield from self._message()
        yield from message.text(text, logprobs)

    def _message(self) -> Generator[Event, None, Message]:
        """The open message, opened now if need be, with the blank text and the citations that were held for it."""
        if isinstance(self._text, Message):
            return self._text
        text, logprobs, annotations = self._round.take_held()
        yield from self._close("completed", keep=Call.may_go_on_after_text)
        self._text = message = Message(len(self.items), self._new_item_id("message"))
        message.cite(self._sources)
        yield from self._open(message)
        if text:
            yield from message.text(text, logprobs)
        for annotation in annotations:
            yield from message.annotation(annotation)
        return message

    def _call(self, change: Delta) -> Iterator[Event]:
        call, arguments = change.call, change.arguments
        if call not in self._round.calls:
            if not call.name:
                call.held.append(arguments)
                return
            if not self._made.may_pass(call, self.tools, self._round, left=self.hosted_left):
                return
            yield from self._open_call(call)
            arguments = "".join(call.held) + arguments
        item = self._round.calls[call]
        if item and not item.closed:
            yield from item.delta(arguments)

    def _open_call(self, call: Call) -> Iterator[Event]:
        yield from self._drain()
        yield from self._close("completed", keep=Call.may_go_on)
        beside = any(self._round.calls.values())
        self._round.calls[call] = item = self._made.make(call, self.tools, len(self.items), beside=beside)
        yield from self._open(item)

    # -- opening and closing

    def _open(self, item: OutputItem) -> Iterator[Event]:
        if isinstance(item, HostedCall):
            if self.hosted_left and item.runs:
                self.hosted_left -= 1
            if item.held:
                self._outlet.hold(item.index)
        self.items.append(item)
        yield from item.open()

    def _close(self, last: str, keep: Callable[[Call], bool] | None = None) -> Iterator[Event]:
        """Closes the open items in index order; the very last of all, any broken one and hosted calls as ``last`` says.

        ``keep``: which calls stay open; the deltas of parallel calls may alternate.
        """
        self._text, self._round.blank, self._round.blank_thought = None, [], ""
        for item in self.items:
            if item.closed:
                continue
            if keep and isinstance(item, ToolCall) and (_is_written(item) or keep(item.call)):
                continue
            hurt = item is self.items[-1] or item.broken or isinstance(item, HostedCall)
            yield from item.close(last if hurt else "completed")

    def _drain(self) -> Iterator[Event]:
        """What was held back because it might have become a tag."""
        if self._tags and (rest := self._tags.flush()):
            yield from self._think(rest, None) if self._tags.thinking else self._write(rest, [])

    def _wrap_up(self, last: str) -> Iterator[Event]:
        yield from self._drain()
        if self._round.fed and len(self.items) == self._round.start:
            yield from self._message()
        yield from self._close(last)


def _is_written(item: ToolCall) -> bool:
    """Whether nothing but its outcome is missing."""
    return isinstance(item, HostedCall) and item.written

"""Items to chat messages: which calls and outputs belong together, in the order chat backends demand (wire §7.1–7.6).

A text that stands alone is a message as it is. Other items fall into blocks: what the model said in one go (thoughts,
texts, calls), a run of outputs, a message of somebody else. Outputs are paired with their calls first, then the blocks
are written as messages.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

from proxy import codec
from proxy.errors import InvalidRequest
from proxy.translate import client_tools, parts
from proxy.translate.dialects import Dialect
from proxy.translate.hosted_items import arguments_of, as_calls, extras_of, is_answered, is_beside, name_of, output_of
from proxy.translate.tool_names import chat_name

Item = dict[str, Any]
Message = dict[str, Any]

_SYNTHETIC_OUTPUT = "No output was given for this call."
_CALLS = ("function_call", "custom_tool_call", *client_tools.BY_ITEM)
_CLIENT_OUTPUTS = tuple(f"{type_}_output" for type_ in client_tools.BY_ITEM)
_OUTPUTS = ("function_call_output", "custom_tool_call_output", *_CLIENT_OUTPUTS)
_ANSWERED = -1
_KINDS = {"assistant": "model", "user": "user"}
_TEXTS = {"assistant": "output_text", "user": "input_text"}
_NINE = re.compile(r"[A-Za-z0-9]{9}\Z")


def to_messages(
    instructions: str | None, items: list[Item], dialect: Dialect, repaired: list[str] | None = None
) -> list[Message]:
    """The upstream's ``messages`` for a context, oldest item first. Item types that mean nothing upstream are skipped.

    ``repaired``: takes the ids of calls that had to be given an output, or moved to where theirs is.
    Raises InvalidRequest for an output without its call, a call of the newest turn without an output, and parts that no
    chat backend takes (wire §2.4, §7.3).
    """
    front, laid = _laid_out(instructions, as_calls(items), dialect)
    blocks = {at: part for at, part in enumerate(laid) if isinstance(part, _Block)}
    if blocks:
        _open(blocks, live_from=_last(laid, "user") + 1)
        changed = [*_pair(blocks, _last(laid, "model"), dialect.repair_tool_history), *_move_late_calls(blocks)]
        if repaired is not None:
            repaired += changed
    messages = front
    for part in laid:
        if isinstance(part, _Block):
            messages += _write(part, dialect)
        else:
            messages.append(part)
    if not messages:
        raise InvalidRequest("There is nothing to answer: 'input' and its context hold no message.", param="input")
    return messages


def _kind(item: Item) -> str:
    """``model``, ``output``, ``user``, ``system``, or "" for what is not sent. Raises for what must not be lost."""
    type_ = item["type"]
    if type_ == "message":
        return _KINDS.get(item["role"], "system")
    if type_ in _CALLS or type_ == "reasoning" or is_answered(item):
        return "model"
    if type_ == "compaction":  # it stands for a whole talk: to skip it would be to forget without a word
        raise InvalidRequest(
            "The encrypted content of a compaction item could not be read: it was not made by this server.",
            param="input",
            code="invalid_encrypted_content",
        )
    return "output" if type_ in _OUTPUTS else ""


def _laid_out(
    instructions: str | None, items: list[Item], dialect: Dialect
) -> tuple[list[Message], list[_Block | Message]]:
    """(the leading system message, if any; what follows it). Many templates allow one, at the front only (§7.2)."""
    texts, roles = ([instructions], {"system"}) if instructions else ([], set())
    laid: list[_Block | Message] = []
    for item in items:
        if (message := _alone(item)) and not (message["role"] == "assistant" and _is_block(laid, "model")):
            laid.append(message)
            continue
        kind = _kind(item)
        if kind == "system" and (not laid or dialect.system_messages == "merge"):
            texts.append(parts.plain_text(item["content"]))
            roles.add(item["role"])
        elif kind:
            _add(item, kind, laid)
    if not texts:
        return [], laid
    role = "developer" if dialect.developer_role and roles == {"developer"} else "system"
    return [{"role": role, "content": "\n\n".join(texts)}], laid


def _alone(item: Item) -> Message | None:
    """The message of an item that is one text of a user or of the model; nearly every one of a long history is.

    It is what a block of it would be written as, at a third of the time (a test compares both).
    """
    if item["type"] != "message" or (type_ := _TEXTS.get(role := item["role"])) is None:
        return None
    text = item["content"]
    if isinstance(text, list):
        if len(text) != 1 or (part := text[0]).get("type") != type_:
            return None
        text = part.get("text")
    return {"role": role, "content": text} if isinstance(text, str) else None


# -- blocks


@dataclass(eq=False, slots=True)
class _Call:
    """A call in the context and the output found for it; ``answered_in``: that output's block.

    ``input``: of a custom tool's call, whose ``arguments`` are those of the function that may stand for it.
    """

    id: str
    name: str
    arguments: str
    extras: dict[str, Any]
    input: str | None = None
    output: Any = None
    answered_in: int | None = None  # or _ANSWERED, when it holds its output itself


@dataclass(slots=True)
class _Spoken:
    """One assistant message; the outputs of its calls follow it directly."""

    thoughts: list[Item] = field(default_factory=list)
    texts: list[Item] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)


@dataclass(slots=True)
class _Block:
    """Items of one kind in a row. ``spoken``: what is written of the model here. ``live``: nobody asked since."""

    kind: str
    items: list[Item]
    spoken: list[_Spoken] = field(default_factory=list)
    live: bool = True

    def open_calls(self) -> list[_Call]:
        """Those that have no output yet."""
        return [call for spoken in self.spoken if spoken.calls for call in spoken.calls if call.answered_in is None]


Blocks = dict[int, _Block]
"""Blocks by their place among the parts of a talk; the other parts are messages already."""


def _is_block(laid: list[_Block | Message], kind: str) -> bool:
    """Whether the last part is a block of that kind."""
    return bool(laid) and isinstance(last := laid[-1], _Block) and last.kind == kind


def _add(item: Item, kind: str, laid: list[_Block | Message]) -> None:
    """Adds an item as or to a block; of a text of the model just before, what follows may be the rest."""
    last, began = laid[-1] if laid else None, [item]
    if isinstance(last, _Block) and last.kind == kind and kind in ("model", "output"):
        last.items.append(item)
        return
    if isinstance(last, dict) and _kind_of(last) == kind == "model":
        laid.pop()
        began.insert(0, {"type": "message", **last})
    laid.append(_Block(kind, began))


def _kind_of(part: _Block | Message) -> str:
    return part.kind if isinstance(part, _Block) else _KINDS[part["role"]]


def _last(laid: list[_Block | Message], kind: str) -> int:
    """The place of the last part of that kind; -1 for none."""
    return next((at for at in reversed(range(len(laid))) if _kind_of(laid[at]) == kind), -1)


def _open(blocks: Blocks, live_from: int) -> None:
    """Finds out what the model said in each block, and whether anybody has asked since."""
    for at, block in blocks.items():
        block.live = at >= live_from
        if block.kind == "model":
            block.spoken = _spoken(block.items)


def _spoken(items: list[Item]) -> list[_Spoken]:
    """Thought, then text, then calls make one message; text after calls joins it, as no output lies between (§7.5).

    What follows an answered call begins another, but for a call that was made beside it: so a context only grows from
    one upstream call of a response to the next, and backends that have read it before need not do so again.
    """
    out = [_Spoken()]
    for item in items:
        last = out[-1]
        is_text = item["type"] == "message"
        if last.calls and not is_beside(item):
            is_new = last.calls[-1].answered_in == _ANSWERED
        else:
            is_new = is_text and bool(last.texts)
        if is_new or (item["type"] == "reasoning" and (last.texts or last.calls)):
            out.append(last := _Spoken())
        if is_text:
            last.texts.append(item)
        elif item["type"] == "reasoning":
            last.thoughts.append(item)
        else:
            last.calls.append(_call(item))
    return out


def _call(item: Item) -> _Call:
    id_, name = str(item.get("call_id") or item.get("id") or ""), str(item.get("name") or "")
    if is_answered(item):
        arguments = _object_text(arguments_of(item))
        return _Call(id_, name_of(item), arguments, extras_of(item), output=output_of(item), answered_in=_ANSWERED)
    extras = item["x_upstream"] if isinstance(item.get("x_upstream"), dict) else {}
    if tool := client_tools.BY_ITEM.get(item["type"]):
        return _Call(id_, tool.type, tool.write(item), extras)
    name = chat_name(name, item["namespace"] if isinstance(item.get("namespace"), str) else None)
    if item["type"] == "custom_tool_call":
        input_ = str(item.get("input") or "")
        return _Call(id_, name, codec.dumps({"input": input_}).decode(), extras, input_)
    return _Call(id_, name, _object_text(item.get("arguments") or ""), extras)


def _object_text(arguments: str) -> str:
    """Arguments as the upstream may read them: a template that parses them must not fail for ever on a broken one."""
    try:
        whole = isinstance(codec.loads(arguments), dict)
    except ValueError:
        whole = False
    return arguments if whole else "{}"


# -- calls and outputs


def _pair(blocks: Blocks, newest: int, repair: bool) -> list[str]:
    """Gives every call its output; the ids of those that get one made up. ``newest``: the model's last part.

    An output answers the nearest earlier open call; the last duplicate wins.
    """
    open_: dict[str, list[_Call]] = {}
    last: dict[str, _Call] = {}
    asked: list[tuple[int, _Call]] = []
    for at, block in blocks.items():
        if block.kind == "model":
            for call in block.open_calls():
                asked.append((at, call))
                open_.setdefault(call.id, []).append(call)
                last[call.id] = call
        for item in block.items if block.kind == "output" else ():
            id_ = _answered_id(item)
            _answer(open_[id_].pop() if open_.get(id_) else last.get(id_), item, at)
    filled: list[str] = []
    for at, call in asked:
        if call.answered_in is not None:
            continue
        if at == newest and not repair:
            raise InvalidRequest(f"No tool output found for function call {call.id}.", param="input")
        call.output, call.answered_in = "" if at == newest else _SYNTHETIC_OUTPUT, _ANSWERED
        filled.append(call.id)
    return filled


def _answered_id(output: Item) -> str:
    """Its call's id; of a local shell, whose output has none in its published form, its own."""
    return str(output.get("call_id") or output.get("id") or "")


def _answer(call: _Call | None, output: Item, at: int) -> None:
    if call is None:
        raise InvalidRequest(
            f"No tool call found for function call output with call_id {_answered_id(output)}.", param="input"
        )
    call.output = client_tools.output_text(output) if output["type"] in _CLIENT_OUTPUTS else output.get("output", "")
    if call.answered_in is None:
        call.answered_in = at


def _move_late_calls(blocks: Blocks) -> list[str]:
    """Moves a call that is answered only later down to its output; the ids of those moved.

    The other way round, the output up to its call, would leave an old question as the newest message: the model would
    call the tool again, for ever.
    """
    ids: list[str] = []
    for at, block in blocks.items():
        if block.kind != "model":
            continue
        for spoken in block.spoken:
            in_time = (_ANSWERED, at + 1)
            late = [call for call in spoken.calls if call.answered_in not in in_time]
            if not late:
                continue
            spoken.calls = [call for call in spoken.calls if call.answered_in in in_time]
            thoughts: list[Item] = []
            if not spoken.calls and not spoken.texts:
                thoughts, spoken.thoughts = spoken.thoughts, []
            for call in late:
                assert call.answered_in is not None  # _pair left none open
                moved = blocks[call.answered_in].spoken
                if not moved or moved[-1].thoughts is not thoughts:
                    moved.append(_Spoken(thoughts))
                moved[-1].calls.append(call)
                ids.append(call.id)
    return ids


# -- messages


def _write(block: _Block, dialect: Dialect) -> list[Message]:
    if block.kind == "user":
        content = block.items[0]["content"]
        return [{"role": "user", "content": parts.said_by_user(content, openai_like=dialect.openai_like)}]
    if block.kind == "system":
        role = "user" if dialect.system_messages == "user" else block.items[0]["role"]
        if role == "developer" and not dialect.developer_role:
            role = "system"
        return [{"role": role, "content": parts.plain_text(block.items[0]["content"])}]
    return [message for spoken in block.spoken for message in _written(spoken, block.live, dialect)]


def _written(spoken: _Spoken, live: bool, dialect: Dialect) -> list[Message]:
    if not spoken.texts and not spoken.calls:
        return []  # a thought that led to nothing
    text, refusal = _joined(spoken.texts)
    message: Message = {"role": "assistant", "content": text}
    if refusal and dialect.openai_like:
        message |= {"content": text or None, "refusal": refusal}
    elif refusal:
        message["content"] = f"{text}\n{refusal}" if text else refusal
    if dialect.reasoning_replay == "always" or (dialect.reasoning_replay == "tool_turns" and live):
        if thought := "\n".join(filter(None, map(thought_in, spoken.thoughts))):
            message |= dict.fromkeys(dialect.reasoning_fields, thought)
    if not spoken.calls:
        return [message]
    if not message["content"] and dialect.openai_like:
        message["content"] = None
    message["tool_calls"] = [_tool_call(call, dialect) for call in spoken.calls]
    return [message, *_outputs(spoken.calls, dialect)]


def _joined(texts: list[Item]) -> tuple[str, str]:
    if len(texts) == 1:
        return parts.said_by_model(texts[0]["content"])
    pairs = [parts.said_by_model(item["content"]) for item in texts]
    return "\n".join(text for text, _ in pairs if text), "\n".join(refusal for _, refusal in pairs if refusal)


def thought_in(item: Item) -> str:
    """The text of a reasoning item, raw or summed up."""
    content = "".join(part.get("text") or "" for part in item.get("content") or ())
    return content or "\n".join(part.get("text") or "" for part in item.get("summary") or ())


def _tool_call(call: _Call, dialect: Dialect) -> dict[str, Any]:
    head = {**call.extras, "id": _call_id(call.id, dialect)}
    if call.input is not None and dialect.custom_tools:
        return {**head, "type": "custom", "custom": {"name": call.name, "input": call.input}}
    return {**head, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _outputs(calls: list[_Call], dialect: Dialect) -> list[Message]:
    tools: list[Message] = []
    images: list[dict[str, Any]] = []
    for call in calls:
        text, others = parts.of_output(call.output, openai_like=dialect.openai_like)
        tools.append({"role": "tool", "tool_call_id": _call_id(call.id, dialect), "content": text})
        images += others
    return [*tools, {"role": "user", "content": images}] if images else tools


def _call_id(id_: str, dialect: Dialect) -> str:
    """Mistral's templates demand exactly nine alphanumerics: a stable hash of any other id (wire §12.2)."""
    if dialect.tool_call_ids != "mistral9" or _NINE.match(id_):
        return id_
    return hashlib.blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()[:9]

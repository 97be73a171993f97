"""What a turn sees of the turns before it, by ``previous_response_id`` and by reference (wire §10.1, §10.2)."""

import pytest

from tests.backend import CLOSE, STREAM_HEAD, chunk, chunked, completion, json_reply, sse
from tests.callers import refusal
from tests.live import strict

UNKNOWN = "resp_" + "0" * 48


def said(request):
    return [message["content"] for message in request.json["messages"]]


@pytest.fixture
def answers(backend):
    """Scripts what the model says, turn by turn."""

    def script(*texts):
        for text in texts:
            backend.script(json_reply(completion(text)))

    return script


async def test_branches_see_their_own_past_only(caller, backend, answers):
    answers("1", "2a", "2b", "3a", "3b")
    root = await caller.create("one")
    left = await caller.create("left", previous_response_id=root["id"])
    right = await caller.create("right", previous_response_id=root["id"])
    await caller.create("left again", previous_response_id=left["id"])
    await caller.create("right again", previous_response_id=right["id"])
    assert said(backend.requests[3]) == ["one", "1", "left", "2a", "left again"]
    assert said(backend.requests[4]) == ["one", "1", "right", "2b", "right again"]


async def test_parameters_are_not_inherited(caller, backend):
    tool = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": False}
    first = await caller.create(
        "one",
        instructions="Be brief.",
        temperature=0.5,
        top_p=0.5,
        max_output_tokens=50,
        metadata={"k": "v"},
        tools=[tool],
        tool_choice="required",
        text={"format": {"type": "json_object"}},
        reasoning={"effort": "low"},
        user="u",
    )
    second = await caller.create("two", previous_response_id=first["id"], instructions="Be long.")
    third = await caller.create("three", previous_response_id=second["id"])
    assert said(backend.requests[1]) == ["Be long.", "one", "Hi", "two"]
    assert said(backend.requests[2]) == ["one", "Hi", "two", "Hi", "three"]
    assert backend.requests[2].json.keys() == {"model", "messages", "stream", "stream_options"}
    assert third["instructions"] is None
    assert (third["temperature"], third["tools"], third["metadata"]) == (1.0, [], {})
    assert third["previous_response_id"] == second["id"]


async def test_the_model_may_change_along_a_chain(caller, backend):
    first = await caller.create("one")
    await caller.http.post("/responses", json={"model": "n", "input": "two", "previous_response_id": first["id"]})
    assert [request.json["model"] for request in backend.requests] == ["m", "n"]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_what_is_not_stored_is_nowhere_to_be_found(caller, streamed):
    if streamed:
        made = strict.stream(await caller.events("one", store=False))
    else:
        made = strict.response(await caller.create("one", store=False))
    assert made["store"] is False
    assert refusal(await caller.http.get(f"/responses/{made['id']}")) == (404, None, None)
    follow = await caller.ask("two", previous_response_id=made["id"])
    assert refusal(follow) == (400, "previous_response_not_found", "previous_response_id")
    reference = await caller.ask([{"type": "item_reference", "id": made["output"][0]["id"]}])
    assert refusal(reference) == (404, None, "input")
    assert (await caller.get("/responses"))["data"] == []


async def test_an_unstored_turn_reads_a_stored_past_and_leaves_no_trace(caller, backend):
    first = await caller.create("one")
    beside = await caller.create("beside", previous_response_id=first["id"], store=False)
    assert said(backend.requests[1]) == ["one", "Hi", "beside"]
    assert beside["previous_response_id"] == first["id"]
    await caller.create("two", previous_response_id=first["id"])
    assert said(backend.requests[2]) == ["one", "Hi", "two"]


async def test_a_deleted_ancestor_is_gone_and_its_descendants_remember_it(caller, backend):
    first = await caller.create("one")
    second = await caller.create("two", previous_response_id=first["id"])
    deleted = await caller.http.delete(f"/responses/{first['id']}")
    assert deleted.json() == {"id": first["id"], "object": "response", "deleted": True}
    assert (await caller.http.delete(f"/responses/{first['id']}")).status_code == 404
    assert (await caller.http.get(f"/responses/{first['id']}")).status_code == 404
    follow = await caller.ask("fork", previous_response_id=first["id"])
    assert refusal(follow) == (400, "previous_response_not_found", "previous_response_id")
    await caller.create("three", previous_response_id=second["id"])
    assert said(backend.requests[-1]) == ["one", "Hi", "two", "Hi", "three"]
    assert [one["id"] for one in (await caller.get("/responses"))["data"]][1:] == [second["id"]]


async def test_a_deleted_tip_is_read_by_nobody(caller, backend):
    first = await caller.create("one")
    second = await caller.create("two", previous_response_id=first["id"])
    await caller.http.delete(f"/responses/{second['id']}")
    await caller.create("other two", previous_response_id=first["id"])
    assert said(backend.requests[-1]) == ["one", "Hi", "other two"]
    reference = await caller.ask([{"type": "item_reference", "id": second["output"][0]["id"]}])
    assert refusal(reference) == (404, None, "input")


async def test_a_response_made_in_a_conversation_can_be_continued_beside_it(caller, backend):
    conversation = await caller.conversation(items=[{"role": "user", "content": "zero"}])
    made = await caller.create("one", conversation=conversation)
    await caller.create("two", conversation=conversation)
    await caller.create("aside", previous_response_id=made["id"])
    assert said(backend.requests[-1]) == ["zero", "one", "Hi", "aside"]
    assert await caller.texts(conversation) == ["zero", "one", "Hi", "two", "Hi"]
    await caller.http.delete(f"/responses/{made['id']}")
    assert await caller.texts(conversation) == ["zero", "one", "Hi", "two", "Hi"]
    await caller.http.delete(f"/conversations/{conversation}")
    listed = (await caller.get("/responses"))["data"]
    assert [one["previous_response_id"] for one in listed] == [made["id"], None]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_an_item_is_found_by_its_id_alone(caller, backend, answers, streamed):
    """As the AI SDK sends every earlier assistant message, with no other hint."""
    answers("first answer", "second answer")
    first = strict.stream(await caller.events("one")) if streamed else await caller.create("one")
    second = await caller.create("two")
    references = [{"type": "item_reference", "id": made["output"][0]["id"]} for made in (first, second)]
    asked = [{"role": "user", "content": "one"}, references[0], {"id": references[1]["id"]}]
    made = await caller.create([*asked, {"role": "user", "content": "three"}])
    assert said(backend.requests[-1]) == ["one", "first answer", "second answer", "three"]
    items = strict.item_list(await caller.get(f"/responses/{made['id']}/input_items", order="asc"))
    assert [item["content"][0]["text"] for item in items] == ["one", "first answer", "second answer", "three"]


async def test_a_reference_into_ones_own_past_adds_nothing(caller, backend):
    first = await caller.create("one")
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    await caller.create([reference, {"role": "user", "content": "two"}], previous_response_id=first["id"])
    assert said(backend.requests[-1]) == ["one", "Hi", "two"]


async def test_a_reference_that_comes_twice_means_its_item_once(caller, backend):
    """As the AI SDK sends an answer of several parts."""
    first = await caller.create("one")
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    thought = {"type": "reasoning", "id": "rs_elsewhere", "summary": []}
    one, two = ({"role": "user", "content": text} for text in ("one", "two"))
    made = await caller.create([one, reference, reference, thought, thought, two])
    assert said(backend.requests[-1]) == ["one", "Hi", "two"]
    items = strict.item_list(await caller.get(f"/responses/{made['id']}/input_items", order="asc"))
    assert [item["type"] for item in items] == ["message", "message", "reasoning", "message"]


async def test_ids_that_clients_send_back_never_appear_twice_in_a_context(caller):
    first = await caller.create([{"role": "user", "content": "one", "id": "msg_mine"}])
    again = [{"role": "user", "content": "one", "id": "msg_mine"}, first["output"][0], {"role": "user", "content": "x"}]
    second = await caller.create(again, previous_response_id=first["id"])
    page = await caller.get(f"/responses/{second['id']}/input_items", order="asc")
    items = strict.item_list(page)
    assert len(items) == 5
    assert items[0]["id"] == "msg_mine"
    pages, after = [], None
    while True:
        query = {"order": "asc", "limit": 2} | ({"after": after} if after else {})
        page = await caller.get(f"/responses/{second['id']}/input_items", **query)
        pages += [item["id"] for item in page["data"]]
        if not page["has_more"]:
            break
        after = page["last_id"]
    assert pages == [item["id"] for item in items]


async def test_tool_calls_and_outputs_pair_along_a_chain(caller, backend):
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    backend.script(json_reply(completion() | {"choices": [choice]}))
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
    first = strict.response(await caller.create("call it", tools=[tool]))
    assert first["output"][0]["call_id"] == "call_1"
    unanswered = await caller.ask("never mind", previous_response_id=first["id"], tools=[tool])
    assert refusal(unanswered) == (400, None, "input")
    stray = [{"type": "function_call_output", "call_id": "call_2", "output": "x"}]
    assert refusal(await caller.ask(stray, previous_response_id=first["id"])) == (400, None, "input")
    output = [{"type": "function_call_output", "call_id": "call_1", "output": "42"}]
    await caller.create(output, previous_response_id=first["id"], tools=[tool])
    sent = backend.requests[-1].json["messages"]
    assert [one["role"] for one in sent] == ["user", "assistant", "tool"]
    assert sent[1]["tool_calls"][0]["id"] == sent[2]["tool_call_id"] == "call_1"


EXTRAS = {"extra_content": {"google": {"thought_signature": "s"}}}


def calling_f(*ids, **extras):
    """A plain answer that calls ``f`` under each of these ids."""
    calls = [{"id": id_, "type": "function", "function": {"name": "f", "arguments": "{}"}, **extras} for id_ in ids]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    return json_reply({**completion(), "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})


def answer_of(call):
    return {"type": "function_call_output", "call_id": call["call_id"], "output": "42"}


def asked(request):
    """The calls in a chat request, whichever message they are in."""
    return [call for message in request.json["messages"] for call in message.get("tool_calls", ())]


@pytest.mark.parametrize("as_sent", ["as_it_was", "without_an_id", "under_another_id", "as_references"])
async def test_a_call_that_comes_back_beside_its_output_is_there_once(caller, backend, as_sent):
    backend.script(calling_f("call_1", "call_2"))
    first = await caller.create("call it")
    forms = {
        "as_it_was": lambda call: call,
        "without_an_id": lambda call: {key: value for key, value in call.items() if key not in ("id", "status")},
        "under_another_id": lambda call: {**call, "id": "fc_mine"},
        "as_references": lambda call: {"type": "item_reference", "id": call["id"]},
    }
    again = [*map(forms[as_sent], first["output"]), *map(answer_of, first["output"])]
    made = await caller.create(again, previous_response_id=first["id"])
    assert [call["id"] for call in asked(backend.requests[-1])] == ["call_1", "call_2"]
    page = await caller.get(f"/responses/{made['id']}/input_items", order="asc")
    assert [item["type"] for item in page["data"]] == [
        "message",
        "function_call",
        "function_call",
        "function_call_output",
        "function_call_output",
    ]


async def test_a_call_that_says_something_else_is_another_call(caller, backend):
    backend.script(calling_f("call_1"))
    first = await caller.create("call it")
    other = {**first["output"][0], "arguments": '{"a":1}'}
    answer = await caller.ask([other, answer_of(other)], previous_response_id=first["id"])
    assert refusal(answer) == (400, None, "input")


async def test_a_call_that_was_answered_and_comes_back_with_its_output_is_told_again(caller, backend):
    """Who sends the whole history beside its response gets it twice, in order: parts of it cannot be told apart."""
    backend.script(calling_f("call_1"))
    first = await caller.create("call it")
    turn = [*first["output"], answer_of(first["output"][0])]
    second = await caller.create(turn[1:], previous_response_id=first["id"])
    question = {"role": "user", "content": "call it"}
    await caller.create([question, *turn, *second["output"], question], previous_response_id=second["id"])
    roles = [message["role"] for message in backend.requests[-1].json["messages"]]
    assert roles == [*["user", "assistant", "tool", "assistant"] * 2, "user"]


async def test_odd_calls_of_other_servers_do_no_harm(caller, backend):
    first = await caller.create([{"role": "user", "content": "one"}, {"type": "odd_call", "x": 1}])
    odd = [{"type": "odd_call", "x": 1}, {"type": "odd_call_output"}]
    await caller.create([*odd, {"role": "user", "content": "two"}], previous_response_id=first["id"])
    assert said(backend.requests[-1]) == ["one", "Hi", "two"]


async def test_gemini_gets_the_extras_of_calls_back_from_clients_that_carry_the_history(calling, backend):
    """It refuses a call without its ``thought_signature``; as openai-agents sends it back, there is none."""
    caller = await calling("--upstream-kind=gemini")
    backend.script(calling_f("call_1", **EXTRAS))
    first = await caller.create("call it")
    (call,) = first["output"]
    assert "x_upstream" not in call
    question = {"role": "user", "content": "call it"}
    made = await caller.create([question, call, answer_of(call)])
    assert [sent.get("extra_content") for sent in asked(backend.requests[-1])] == [EXTRAS["extra_content"]]
    page = await caller.get(f"/responses/{made['id']}/input_items", order="asc")
    assert page["data"][1] == call
    await caller.create([question, {**call, "arguments": '{"a":1}'}, answer_of(call)])
    assert "extra_content" not in asked(backend.requests[-1])[0]  # signed was another call


async def test_a_client_has_no_say_in_what_only_the_upstream_gets_back(caller, backend):
    call = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}", "x_upstream": EXTRAS}
    await caller.create([{"role": "user", "content": "call it"}, call, answer_of(call)])
    assert asked(backend.requests[-1])[0].keys() == {"id", "type", "function"}


@pytest.mark.parametrize("stored", [True, False], ids=["by_chain", "inline"])
async def test_the_output_of_a_local_shell_may_name_its_call_by_the_calls_item(caller, backend, stored):
    call = {"id": "call_1", "type": "function", "function": {"name": "local_shell", "arguments": '{"command":["ls"]}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    backend.script(json_reply({**completion(), "choices": [choice]}))
    first = await caller.create("ls", tools=[{"type": "local_shell"}])
    (made,) = first["output"]
    answer = {"type": "local_shell_call_output", "id": made["id"], "output": "a.txt"}
    if stored:
        await caller.create([answer], previous_response_id=first["id"])
    else:
        await caller.create([{"role": "user", "content": "ls"}, made, answer])
    sent = backend.requests[-1].json["messages"]
    assert (sent[-1]["tool_call_id"], sent[-1]["content"]) == ("call_1", "a.txt")


async def test_a_list_of_responses_pages_in_order_whatever_the_second(caller, answers):
    made = [(await caller.create(str(n)))["id"] for n in range(7)]
    for order, expected in (("asc", made), ("desc", made[::-1])):
        seen, after = [], None
        while True:
            query = {"order": order, "limit": 3} | ({"after": after} if after else {})
            page = await caller.get("/responses", **query)
            for one in page["data"]:
                strict.response(one)
            seen += [one["id"] for one in page["data"]]
            if not page["has_more"]:
                break
            after = page["last_id"]
        assert seen == expected


async def test_incomplete_answers_are_stored_and_continued(caller, backend):
    message = {"role": "assistant", "content": "Half"}
    choice = {"index": 0, "message": message, "finish_reason": "length"}
    backend.script(json_reply(completion() | {"choices": [choice]}))
    conversation = await caller.conversation()
    made = strict.response(await caller.create("one", conversation=conversation))
    assert (made["status"], made["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert await caller.texts(conversation) == ["one", "Half"]
    assert await caller.get(f"/responses/{made['id']}") == made


async def test_a_failed_turn_moves_no_tip(caller, backend):
    first = await caller.create("one")
    backend.script(STREAM_HEAD + chunked(sse(chunk({"content": "Hel"}))), CLOSE)
    failed = strict.stream(await caller.events("two", previous_response_id=first["id"]))
    assert failed["status"] == "failed"
    await caller.create("other two", previous_response_id=first["id"])
    assert said(backend.requests[-1]) == ["one", "Hi", "other two"]

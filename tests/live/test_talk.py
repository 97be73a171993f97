"""Conversations and chains on every kind of server, as a person would try them, and what an older service got wrong."""

import asyncio

import pytest

from tests.callers import refusal
from tests.live import strict

pytestmark = pytest.mark.live


def user(text, **rest):
    return {"type": "message", "role": "user", "content": text, **rest}


def text_of(item):
    return item["content"][0]["text"]


async def pages(caller, path, **query):
    """Every page of a list, as lists of rows."""
    found, after = [], None
    while True:
        page = await caller.get(path, **query, **({"after": after} if after else {}))
        found.append(strict.item_list(page, of_conversation=path.startswith("/conversations")))
        if not page["has_more"]:
            return found
        after = page["last_id"]


async def test_the_manual_flow(caller):
    made = await caller.http.post("/conversations", json={"items": [user("Hello")], "metadata": {"topic": "demo"}})
    conversation = strict.conversation(made.json())
    path = f"/conversations/{conversation['id']}"
    assert strict.conversation(await caller.get(path)) == conversation
    updated = await caller.http.post(path, json={"metadata": {"topic": "project-x"}})
    assert strict.conversation(updated.json()) == {**conversation, "metadata": {"topic": "project-x"}}
    added = await caller.http.post(f"{path}/items", json={"items": [user("How are you?"), user("Still there?")]})
    rows = strict.item_list(added.json(), of_conversation=True)
    assert [text_of(row) for row in rows] == ["How are you?", "Still there?"]
    page = await caller.get(f"{path}/items", limit=2)
    assert [row["id"] for row in strict.item_list(page, of_conversation=True)] == [rows[1]["id"], rows[0]["id"]]
    assert page["has_more"] is True
    item = f"{path}/items/{rows[0]['id']}"
    assert strict.item(await caller.get(item)) == rows[0]
    after_deletion = await caller.http.delete(item)
    assert strict.conversation(after_deletion.json())["id"] == conversation["id"]
    assert refusal(await caller.http.get(item)) == (404, None, None)
    assert await caller.texts(conversation["id"]) == ["Hello", "Still there?"]
    strict.deleted_conversation((await caller.http.delete(path)).json())
    for gone in (path, f"{path}/items", f"{path}/items/{rows[1]['id']}"):
        assert refusal(await caller.http.get(gone)) == (404, None, None)

    talk = await caller.conversation()
    said = []
    for text in ("My name is Ada.", "Repeat what you just said.", "What is my name?"):
        answer = strict.response(await caller.create(text, model="demo", conversation=talk))
        assert answer["conversation"] == {"id": talk}
        said.append(text_of(answer["output"][0]))
    assert "Ada" in said[0]
    assert said[1] == said[0]
    assert said[2] == "Your name is Ada."
    (rows,) = await pages(caller, f"/conversations/{talk}/items", order="asc")
    assert [row["role"] for row in rows] == ["user", "assistant"] * 3
    assert [text_of(row) for row in rows[1::2]] == said
    unknown = await caller.ask("Hi", conversation="conv_123")
    assert refusal(unknown) == (404, None, "conversation")
    assert await caller.texts(talk) == [text_of(row) for row in rows]


async def test_a_chain_remembers_and_branches(caller):
    first = await caller.create("My name is Ada.", model="demo")
    second = strict.stream(await caller.events("I live in Oslo.", model="demo", previous_response_id=first["id"]))
    asked = "What is my name and where do I live?"
    third = await caller.create(asked, model="demo", previous_response_id=second["id"])
    assert text_of(third["output"][0]) == "Your name is Ada, and you live in Oslo."
    branch = await caller.create(asked, model="demo", previous_response_id=first["id"])
    assert text_of(branch["output"][0]) == "Your name is Ada."
    beside = await asyncio.gather(
        *(caller.create(f"I live in {c}.", model="demo", previous_response_id=third["id"]) for c in ("Rome", "Bonn"))
    )
    for city, made in zip(("Rome", "Bonn"), beside, strict=True):
        then = await caller.create("Where do I live?", model="demo", previous_response_id=made["id"])
        assert text_of(then["output"][0]) == f"You live in {city}."
    await caller.http.delete(f"/responses/{first['id']}")
    again = await caller.create("What is my name?", model="demo", previous_response_id=third["id"])
    assert text_of(again["output"][0]) == "Your name is Ada."
    listed = (await caller.get("/responses", limit=100))["data"]
    assert first["id"] not in [one["id"] for one in listed]
    assert len(listed) == 8


async def test_items_are_found_by_their_id_alone(caller):
    first = strict.stream(await caller.events("Say: the word is apple", model="demo"))
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    made = await caller.create([user("Hi"), reference, user("Repeat what you just said.")], model="demo")
    assert text_of(made["output"][0]).endswith("the word is apple")


async def test_a_conversation_taken_on_one_server_is_taken_on_all_until_its_client_leaves(caller):
    conversation = await caller.conversation()
    async with caller.opened("Count to 1000", model="demo-slow", conversation=conversation) as opened:
        await opened.until("response.output_text.delta")
        for _ in range(4):
            second = await caller.ask("Hi", model="demo", conversation=conversation)
            assert refusal(second) == (400, "conversation_locked", "conversation")
    async with asyncio.timeout(10):  # below a lease: the lock is released, it does not run out
        while (answer := await caller.ask("Say: free", model="demo", conversation=conversation)).status_code != 200:
            assert refusal(answer) == (400, "conversation_locked", "conversation")
    assert [text.split()[-1] for text in await caller.texts(conversation)] == ["free", "free"]


# -- what an older service got wrong


async def test_items_keep_their_order_within_one_second(caller):
    """It sorted by whole-second timestamps."""
    conversation = await caller.conversation(items=[user(f"{n:03}") for n in range(8)])
    for start in (8, 16):
        items = [user(f"{n:03}") for n in range(start, start + 8)]
        assert (
            await caller.http.post(f"/conversations/{conversation}/items", json={"items": items})
        ).status_code == 200
    expected = [f"{n:03}" for n in range(24)]
    assert await caller.texts(conversation) == expected
    for limit in (1, 7, 8, 24, 100):
        ascending = await pages(caller, f"/conversations/{conversation}/items", order="asc", limit=limit)
        assert [text_of(row) for page in ascending for row in page] == expected
        assert len(ascending) == -(-24 // limit)


async def test_the_second_page_holds_what_the_first_did_not(caller):
    """Its page 2 was empty, and ``has_more`` was always false."""
    conversation = await caller.conversation(items=[user(str(n)) for n in range(5)])
    path = f"/conversations/{conversation}/items"
    for order, expected in (("asc", "01234"), ("desc", "43210")):
        found = await pages(caller, path, order=order, limit=2)
        assert [[text_of(row) for row in page] for page in found] == [
            list(expected[:2]),
            list(expected[2:4]),
            list(expected[4:]),
        ]
    full = await caller.get(path, limit=5)
    assert full["has_more"] is False
    assert (await caller.get(path, after=full["last_id"]))["data"] == []
    back = await caller.get(path, before=full["last_id"], limit=2, order="desc")
    assert [text_of(row) for row in back["data"]] == ["2", "1"]
    assert back["has_more"] is True


async def test_an_item_id_of_another_conversation_moves_and_overwrites_nothing(caller):
    """Posting an item with a known id moved it here, or wrote over it."""
    one = await caller.conversation(items=[user("mine", id="msg_same")])
    other = await caller.conversation()
    (item,) = (await caller.get(f"/conversations/{one}/items"))["data"]
    stolen = user("theirs", id=item["id"])
    for _ in range(2):
        answer = await caller.http.post(f"/conversations/{other}/items", json={"items": [stolen, stolen]})
        rows = strict.item_list(answer.json(), of_conversation=True)
        assert len({row["id"] for row in rows}) == 2
    assert await caller.texts(other) == ["theirs"] * 4
    await caller.create(stolen["content"], model="demo", conversation=other)
    assert strict.item(await caller.get(f"/conversations/{one}/items/{item['id']}")) == item
    assert await caller.texts(one) == ["mine"]
    again = await caller.http.post(f"/conversations/{one}/items", json={"items": [user("new", id=item["id"])]})
    assert again.json()["data"][0]["id"] != item["id"]
    assert await caller.texts(one) == ["mine", "new"]
    strict.conversation((await caller.http.delete(f"/conversations/{other}/items/{item['id']}")).json())
    assert await caller.texts(one) == ["mine", "new"]


async def test_nothing_of_a_deleted_conversation_can_be_read(caller):
    """Its items outlived it."""
    conversation = await caller.conversation(items=[user("secret")])
    made = await caller.create("Hi", model="demo", conversation=conversation)
    ids = [row["id"] for row in (await caller.get(f"/conversations/{conversation}/items"))["data"]]
    await caller.http.delete(f"/conversations/{conversation}")
    for id_ in ids:
        path = f"/conversations/{conversation}/items/{id_}"
        for method in ("GET", "DELETE"):
            assert refusal(await caller.http.request(method, path)) == (404, None, None)
    posted = await caller.http.post(f"/conversations/{conversation}/items", json={"items": [user("x")]})
    assert refusal(posted) == (404, None, None)
    assert refusal(await caller.http.delete(f"/conversations/{conversation}")) == (404, None, None)
    assert refusal(await caller.ask("Hi", conversation=conversation)) == (404, None, "conversation")
    assert strict.response(await caller.get(f"/responses/{made['id']}")) == made


async def test_a_fault_changes_nothing(caller):
    """It turned requests it could not read into updates."""
    conversation = await caller.conversation(items=[user("kept")], metadata={"k": "v"})
    path = f"/conversations/{conversation}"
    before = await caller.get(path), await caller.texts(conversation)
    faults = [
        ("POST", path, b"{"),
        ("POST", path, b"{}"),
        ("POST", path, b"[]"),
        ("POST", path, b'{"metadata":{"k":1}}'),
        ("POST", path, b'{"metadata":"x"}'),
        ("POST", f"{path}/items", b'{"items":[{"role":"user","content":"x"},{"role":"nobody","content":"x"}]}'),
        ("POST", f"{path}/items", b'{"items":[{"role":"user","content":"x"},{"content":1}]}'),
        ("PATCH", path, b'{"metadata":{}}'),
        ("PUT", path, b'{"metadata":{}}'),
        ("PUT", f"{path}/items/msg_x", b"{}"),
        ("DELETE", f"{path}/items", b""),
    ]
    for method, target, body in faults:
        answer = await caller.http.request(method, target, content=body)
        assert answer.status_code in (400, 404, 405), (method, target, body, answer.text)
        assert (await caller.get(path), await caller.texts(conversation)) == before


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_turn_of_many_items_fits_into_a_conversation(caller, streamed):
    """Its own append ran into the limit of 20 items that holds for clients."""
    conversation = await caller.conversation()
    items = [user(f"line {n}") for n in range(25)]
    if streamed:
        made = strict.stream(await caller.events(items, model="demo", conversation=conversation))
    else:
        made = strict.response(await caller.create(items, model="demo", conversation=conversation))
    texts = [f"line {n}" for n in range(25)]
    assert await caller.texts(conversation) == [*texts, text_of(made["output"][0])]
    own = strict.item_list(await caller.get(f"/responses/{made['id']}/input_items", limit=100, order="asc"))
    assert [text_of(item) for item in own] == texts
    refused = await caller.http.post(f"/conversations/{conversation}/items", json={"items": items[:21]})
    assert refusal(refused) == (400, "array_above_max_length", "items")


async def test_items_come_back_in_the_form_in_which_they_can_be_sent_again(caller):
    """As the Agents SDKs do: read all, send all as input, post the new ones without ids."""
    conversation = await caller.conversation(items=[])
    posted = [user("My name is Ada."), {"role": "assistant", "content": "Noted."}]
    await caller.http.post(f"/conversations/{conversation}/items", json={"items": posted})
    (rows,) = await pages(caller, f"/conversations/{conversation}/items", order="asc")
    assert [row["content"][0]["type"] for row in rows] == ["input_text", "output_text"]
    made = await caller.create([*rows, user("What is my name?")], model="demo")
    assert text_of(made["output"][0]) == "Your name is Ada."
    again = await caller.http.post(f"/conversations/{conversation}/items", json={"items": made["output"]})
    assert again.status_code == 200
    assert await caller.texts(conversation) == ["My name is Ada.", "Noted.", "Your name is Ada."]
    newest = await caller.get(f"/conversations/{conversation}/items", limit=1, order="desc")
    await caller.http.delete(f"/conversations/{conversation}/items/{newest['data'][0]['id']}")
    assert await caller.texts(conversation) == ["My name is Ada.", "Noted."]

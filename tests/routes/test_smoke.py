from tests.live import strict
async def test_x(caller):
    a = await caller.create()
    strict.response(a)
    e = await caller.events()
    strict.stream(e)
    c = (await caller.http.post("/conversations", json={"metadata":{"a":"b"}})).json()
    strict.conversation(c)
    await caller.create(conversation=c["id"])
    strict.item_list(await caller.get(f"/conversations/{c['id']}/items"), of_conversation=True)
    strict.item_list(await caller.get(f"/responses/{a['id']}/input_items"))

"""Lessons on every kind of store."""

import pytest

from proxy.errors import StoreUnavailable
from proxy.state import keys, open_state

URL, MODEL = "http://localhost:8000/v1", "m"


async def test_a_lesson_is_kept_for_its_upstream_and_model_alone(state):
    assert await state.lessons.get("http://a/v1", "kept") == {}
    await state.lessons.put("http://a/v1", "kept", {"stream_options": False})
    await state.lessons.put("http://a/v1", "kept", {"left_out": ["verbosity"]})
    assert await state.lessons.get("http://a/v1", "kept") == {"left_out": ["verbosity"]}
    assert await state.lessons.get("http://a/v1", "other") == {}
    assert await state.lessons.get("http://b/v1", "kept") == {}


@pytest.mark.parametrize("model", ["", "\ud800", "{x}", "a\nb", "m" * 100_000])
async def test_any_name_will_do_for_a_model(state, model):
    await state.lessons.put("http://names/v1", model, {"developer_role": False})
    assert await state.lessons.get("http://names/v1", model) == {"developer_role": False}
    assert len(keys.lesson("http://names/v1", model)) < 50


async def test_a_lesson_expires(valkey):
    state = open_state(valkey.url, response_ttl=60, conversation_ttl=60, lesson_ttl=100)
    try:
        await state.lessons.put(URL, "expires", {"stream_options": False})
        assert 0 < await state._client.command("PTTL", keys.lesson(URL, "expires")) <= 100_000
    finally:
        await state.close()


@pytest.mark.parametrize(
    "kept", [b"", b"\xff", b"[]", b'{"schema":2,"fields":{"strict_tools":false}}', b'{"schema":1,"fields":[]}', b"{}"]
)
async def test_what_another_version_has_kept_is_no_lesson(valkey, kept):
    state = open_state(valkey.url, response_ttl=60, conversation_ttl=60)
    try:
        await state._client.command("SET", keys.lesson(URL, "strange"), kept, "EX", 60)
        assert await state.lessons.get(URL, "strange") == {}
    finally:
        await state.close()


async def test_without_a_store_there_are_no_lessons():
    state = open_state("unix:///nowhere.sock", response_ttl=60, conversation_ttl=60)
    try:
        with pytest.raises(StoreUnavailable):
            await state.lessons.get(URL, MODEL)
        with pytest.raises(StoreUnavailable):
            await state.lessons.put(URL, MODEL, {})
    finally:
        await state.close()

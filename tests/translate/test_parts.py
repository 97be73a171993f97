"""Content parts in their chat form (wire §7.3, §7.4, §7.5)."""

import base64

import pytest

from proxy import wire
from proxy.errors import InvalidRequest
from proxy.translate import parts
from proxy.translate.dialects import Dialect
from proxy.translate.input import to_messages

PNG = "data:image/png;base64,AAAA"
IMAGE = {"type": "image_url", "image_url": {"url": PNG}}
PDF = "data:application/pdf;base64,JVBERg=="


def stored(role, *content):
    return wire.input_item({"role": role, "content": list(content)}, "input[0]")


def said(*content, openai_like=False):
    """What a user's message with these parts, as clients write them, becomes."""
    return parts.said_by_user(stored("user", *content)["content"], openai_like=openai_like)


def text(value):
    return {"type": "input_text", "text": value}


@pytest.mark.parametrize(
    ("part", "sent"),
    [
        ({"type": "input_image", "image_url": PNG}, IMAGE),
        ({"type": "input_image", "image_url": PNG, "detail": "auto"}, IMAGE),
        (
            {"type": "input_image", "image_url": PNG, "detail": "low"},
            {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
        ),
        (
            {"type": "input_image", "image_url": PNG, "detail": "original"},
            {"type": "image_url", "image_url": {"url": PNG, "detail": "high"}},
        ),
        ({"type": "image_url", "image_url": {"url": PNG}}, IMAGE),
        (
            {"type": "input_file", "filename": "a.pdf", "file_data": PDF},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}},
        ),
        (
            {"type": "input_file", "file_data": "JVBERg=="},
            {"type": "file", "file": {"file_data": "data:application/octet-stream;base64,JVBERg=="}},
        ),
        ({"type": "input_file", "file_id": "file_1"}, {"type": "file", "file": {"file_id": "file_1"}}),
        (
            {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
            {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
        ),
        (
            {"type": "input_video", "video_url": "http://x/v.mp4"},
            {"type": "video_url", "video_url": {"url": "http://x/v.mp4"}},
        ),
        ({"type": "refusal", "refusal": "No"}, {"type": "text", "text": "No"}),
        ({"type": "new_text", "text": "Hi"}, {"type": "text", "text": "Hi"}),
    ],
)
def test_every_part_has_its_chat_form(part, sent):
    assert said(text("See"), part) == [{"type": "text", "text": "See"}, sent]


def test_a_single_text_is_a_plain_string():
    """Many templates and small servers take nothing else."""
    assert said(text("Hi")) == "Hi"
    assert said({"type": "text", "text": "Hi"}) == "Hi"
    assert said(text("A"), text("B")) == [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "input_image", "file_id": "file_1"}, "An input_image needs a non-empty 'image_url', got a file_id."),
        (
            {"type": "input_file", "file_url": "http://x/y"},
            "An input_file by 'file_url' is not supported: send its 'file_data'.",
        ),
        ({"type": "hologram"}, "Content of type 'hologram' cannot be sent to the model."),
    ],
)
def test_what_no_backend_takes_is_refused(part, message):
    with pytest.raises(InvalidRequest) as caught:
        said(part)
    assert (caught.value.message, caught.value.param) == (message, "input")


def b64(data):
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", b64("é".encode())),
        ("a.md", "data:;base64," + b64("é".encode())),
        ("A.JSON", b64("é".encode())),
        ("odd", "data:text/plain;base64," + b64("é".encode())),
        ("odd", "data:text/csv;charset=utf-8;base64," + b64("é".encode())),
        ("odd", "data:application/json;base64," + b64("é".encode())),
        ("odd", "data:text/plain,%C3%A9"),
    ],
)
def test_a_text_file_is_text_for_backends_without_file_parts(name, data):
    part = {"type": "input_file", "filename": name, "file_data": data}
    assert said(part) == f"[file: {name}]\né"
    (sent,) = said(part, openai_like=True)
    assert (sent["type"], sent["file"]["filename"]) == ("file", name)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.pdf", PDF),
        ("a.txt", PDF),
        ("a.txt", "data:text/plain;base64,///"),
        ("a.txt", "data:text/plain;base64," + b64(b"\xff")),
        ("a.txt", "no base64!"),
        (None, b64(b"x")),
    ],
)
def test_a_file_that_is_no_text_stays_a_file(name, data):
    (sent,) = said({"type": "input_file", "filename": name, "file_data": data})
    assert sent["type"] == "file"


def test_a_name_of_a_text_file_is_not_needed():
    assert said({"type": "input_file", "file_data": "data:text/plain,hi"}) == "[file: file]\nhi"


def output(*content, **dialect):
    items = [
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": list(content)},
    ]
    sent = to_messages(None, wire.create_response({"model": "m", "input": items})["input"], Dialect(**dialect))
    return sent[1]["content"], [message["content"] for message in sent[2:]]


def test_texts_of_an_output_are_one_text():
    assert output(text("A"), {"type": "text", "text": "B"}, text("")) == ("A\nB", [])
    assert output() == ("", [])


def test_images_of_outputs_follow_as_a_users_message():
    """Tool messages hold only text; Codex sends what its view_image saw."""
    image = {"type": "input_image", "image_url": PNG}
    assert output(text("A"), image, text("B")) == ("A\nB", [[IMAGE]])
    assert output(image) == ("", [[IMAGE]])


def test_images_of_parallel_calls_follow_the_last_of_their_outputs():
    image = {"type": "input_image", "image_url": PNG}
    items = [{"type": "function_call", "call_id": id_, "name": "f", "arguments": "{}"} for id_ in "ab"]
    items += [{"type": "function_call_output", "call_id": id_, "output": [image]} for id_ in "ab"]
    sent = to_messages(None, wire.create_response({"model": "m", "input": items})["input"], Dialect())
    assert [message["role"] for message in sent] == ["assistant", "tool", "tool", "user"]
    assert sent[-1]["content"] == [IMAGE, IMAGE]


def test_a_text_file_in_an_output_is_text_where_files_are_not_taken():
    file = {"type": "input_file", "filename": "a.txt", "file_data": b64(b"hi")}
    assert output(text("A"), file) == ("A\n[file: a.txt]\nhi", [])
    told, ((sent,),) = output(text("A"), file, openai_like=True)
    assert (told, sent["type"]) == ("A", "file")


@pytest.mark.parametrize("odd", [None, 5, [], {}])
def test_odd_parts_of_a_model_say_nothing(odd):
    content = stored("assistant", {"type": "output_text", "text": "Hi"}, {"type": "new", "text": odd, "refusal": odd})
    assert parts.said_by_model(content["content"]) == ("Hi", "")
    assert parts.plain_text(content["content"]) == "Hi"

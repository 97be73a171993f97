"""Which model a body names."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.named import in_form, in_json

JSON = {
    "first": (b'{"model": "m", "messages": []}', "m"),
    "last": (b' {"messages": [{"model": "no"}], "x": {"model": "no"}, "model" : "m"} ', "m"),
    "none": (b'{"messages": [{"model": "no"}]}', None),
    "a value of that text": (b'{"a": "model", "b": "x"}', None),
    "no text": (b'{"model": null}', None),
    "a number": (b'{"model": 7, "x": "m"}', None),
    "an object": (b'{"model": {"model": "no"}}', None),
    "twice": (b'{"model": "a", "model": "m"}', "m"),
    "twice, the last one none": (b'{"model": "a", "model": null}', None),
    "escaped": (b'{"mod\\u0065l": "\\u006d\\n"}', "m\n"),
    "quotes within": (b'{"a\\"": "\\\\\\"", "model": "m"}', "m"),
    "a list": (b'[{"model": "m"}]', None),
    "empty": (b"", None),
    "cut off": (b'{"model": "m', None),
    "no JSON": (b'x {"model": "m"}', None),
    "brackets in texts": (b'{"a": "}]{[", "model": "m"}', "m"),
    "a lone surrogate": (b'{"model": "\\ud800"}', "\ud800"),
}


@pytest.mark.parametrize(("body", "model"), JSON.values(), ids=JSON)
def test_the_model_of_a_json_body_is_found(body, model):
    found = in_json(body)
    assert (found and found.model) == model


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.sampled_from(["model", "\\", '"']),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.just("model"), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["model", "a", 'b"', "mode"]), VALUES, max_size=4), st.booleans())
def test_it_is_what_a_parser_finds_and_another_name_changes_nothing_else(body, is_ascii):
    text = json.dumps(body, ensure_ascii=is_ascii).encode(errors="surrogatepass")
    found = in_json(text)
    model = body.get("model")
    assert (found and found.model) == (model if isinstance(model, str) else None)
    if found:
        assert found.renamed(text, found.model) is text
        assert json.loads(found.renamed(text, 'an"other')) == body | {"model": 'an"other'}


def form(*parts, end=b"--\r\n", boundary=b"--x"):
    return b"".join(boundary + b"\r\n" + head + b"\r\n\r\n" + value + b"\r\n" for head, value in parts) + boundary + end


FIELD = b'Content-Disposition: form-data; name="model"'
FILE = (b'content-disposition: form-data; name="file"; filename="model"\r\ncontent-type: audio/wav', b"\x00\r\n--y\xff")
FORMS = {
    "a field": ("multipart/form-data; boundary=x", form((FIELD, b"m")), ["m"]),
    "behind a file": ('Multipart/Form-Data; boundary="x"', form(FILE, (FIELD, b"m")), ["m"]),
    "bare": (
        "multipart/form-data; charset=a; boundary=x",
        form((b"content-disposition:form-data;name=model", b"m")),
        ["m"],
    ),
    "twice": ("multipart/form-data; boundary=x", form((FIELD, b"a"), (FIELD, b"m")), ["a", "m"]),
    "not all there": ("multipart/form-data; boundary=x", form(FILE, (FIELD, b"m"))[:-10], []),
    "another field": ("multipart/form-data; boundary=x", form((FIELD.replace(b"model", b"models"), b"m")), []),
    "a file of that name": ("multipart/form-data; boundary=x", form((FIELD + b'; filename="a"', b"m")), []),
    "no boundary": ("multipart/form-data", form((FIELD, b"m")), []),
    "no form": ("application/json; boundary=x", form((FIELD, b"m")), []),
}


@pytest.mark.parametrize(("content_type", "body", "models"), FORMS.values(), ids=FORMS)
def test_the_models_of_a_form_are_found(content_type, body, models):
    assert in_form(content_type, body) == models

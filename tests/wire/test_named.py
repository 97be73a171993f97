"""Which model a body names."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire.named import every_model, in_form, in_json, in_object, renamed

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
    "twice, and further in": (b'{"model": "a", "x": {"model": "no"}, "model": "m", "y": [{"model": "no"}]}', "m"),
    "twice, behind others": (b'{"models": ["no"], "model": "a", "MODEL": "no", "m\\u006fdel": "m"}', "m"),
    "brackets in texts": (b'{"a": "}]{[", "model": "m"}', "m"),
    "a lone surrogate": (b'{"model": "\\ud800"}', "\ud800"),
    "another encoding": ('{"model": "m", "x": "\u00e9"}'.encode("utf-16-le"), None),
}


@pytest.mark.parametrize(("body", "model"), JSON.values(), ids=JSON)
def test_the_model_of_a_json_body_is_found(body, model):
    assert in_json(in_object(body)) == model


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["model", "\\", '"']),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.just("model"), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("body", [body for body, model in JSON.values() if model], ids=[k for k in JSON if JSON[k][1]])
def test_another_name_takes_the_place_of_the_one_that_counts(body):
    other = renamed(body, "new")
    assert in_json(in_object(other)) == "new"
    before, _, after = other.rpartition(b'"new"')
    assert body.startswith(before) and body.endswith(after)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["model", "a", 'b"', "mode"]), VALUES, max_size=4), st.booleans())
def test_it_is_what_a_parser_finds_and_another_name_changes_nothing_else(body, is_ascii):
    text = json.dumps(body, ensure_ascii=is_ascii).encode(errors="surrogatepass")
    model = body.get("model")
    assert in_json(in_object(text)) == (model if isinstance(model, str) else None)
    if isinstance(model, str):
        assert json.loads(renamed(text, 'an"other')) == body | {"model": 'an"other'}


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


PLAIN = "application/json"
MULTI = "multipart/form-data; boundary=x"
UTF_16 = '{"model":"secret","x":"\u2c22\u6d22\u646f\u6c65\u3a22\u7122\u6577\u226e"}'.encode("utf-16-le")
"""What Python's parser takes for another model than stands in its bytes."""
WRITTEN = {
    "one": (PLAIN, b'{"a": {"model": "no"}, "model": "m"}', ["m"]),
    "equal keys": (PLAIN, b'{"model": "a", "model": "b"}', ["a", "b"]),
    "letters of any case": (PLAIN, b'{"model": "a", "MoDel": "b"}', ["a", "b"]),
    "escaped": (PLAIN, b'{"mod\\u0065l": "m"}', ["m"]),
    "no text": (PLAIN, b'{"model": "a", "model": ["b"]}', []),
    "no JSON": (PLAIN, b'{"model": "a"} {"model": "b"}', []),
    "another encoding": (PLAIN, UTF_16, []),
    "an encoding by name": (f"{PLAIN}; charset=utf-7", b'{"model": "a", "+AG0-odel": "b"}', []),
    "the usual one by name": (f'{PLAIN}; Charset="UTF-8"', b'{"model": "a"}', ["a"]),
    "a form with an encoding": (f"{MULTI}; charset*=utf-16", form((FIELD, b"a")), []),
    "others to answer instead": (PLAIN, b'{"models": ["b"], "fallbacks": ["c"], "model": "a"}', ["a", "b", "c"]),
    "others twice": (
        PLAIN,
        b'{"models": ["b"], "model": "a", "models": ["c"], "x": {"models": ["no"]}}',
        ["a", "b", "c"],
    ),
    "letters that some take for others": (
        PLAIN,
        '{"fallbac\u212as": "b", "model": "a", "model\u017f": "c"}'.encode(),
        ["a", "b", "c"],
    ),
    "no number": (PLAIN, b'{"model": "a", "x": NaN}', []),
    "no UTF-8": (PLAIN, b'{"model": "a\xed\xa0\x80"}', []),
    "half a pair": (PLAIN, b'{"model": "a", "x": "\\ud83d"}', ["a"]),
    "a name as they get here": (PLAIN, b'{"model": "a", "model": "b", "\\u00000.0": "no"}', ["a", "b"]),
    "others in another form": (PLAIN, b'{"model": "a", "fallbacks": [{"model": "b"}]}', []),
    "others alone": (PLAIN, b'{"models": ["b"]}', []),
    "a mark in front": (PLAIN, b'\xef\xbb\xbf{"model": "a"}', []),
    "a list": (PLAIN, b'[["model", "a"]]', []),
    "deep": (PLAIN, b"[" * 100_000, []),
    "a form in a text": ("application/x-www-form-urlencoded", b'{"model": "a", "x": "&model=b&"}', []),
    "a form": (MULTI, form(FILE, (FIELD, b"a"), (FIELD, b"b")), ["a", "b"]),
    "in other letters": (MULTI, form((FIELD.replace(b"model", b"Model"), b"a")), ["a"]),
    "a file of that name": (MULTI, form((FIELD + b'; filename="a"', b"m")), [""]),
    "JSON in front": (MULTI, b'{"model": "b"}\r\n' + form((FIELD, b"a")), []),
    "something behind": (MULTI, form((FIELD, b"a")) + b"x", []),
    "not all there": (MULTI, form((FIELD, b"a"))[:-6], []),
    "two boundaries": (MULTI + "; boundary=y", form((FIELD, b"a")), []),
    "two types": (f"{PLAIN},{MULTI}", form((FIELD, b"a")), ["a"]),
    "two names": (MULTI, form((FIELD + b'; name="x"', b"a")), []),
    "two dispositions": (MULTI, form((FIELD + b'\r\ncontent-disposition: form-data; name="x"', b"a")), []),
    "a folded line": (MULTI, form((FIELD + b'\r\n ; name="x"', b"a")), []),
    "half a line end": (MULTI, form((FIELD + b"\r\nx: \ncontent-disposition: y", b"a")), []),
    "another writing": (MULTI, form((FIELD.replace(b'"model"', b"model"), b"a")), []),
}


@pytest.mark.parametrize(("content_type", "body", "models"), WRITTEN.values(), ids=WRITTEN)
def test_every_model_that_a_server_may_find_is_known_or_none(content_type, body, models):
    assert every_model(content_type, body) == models


SPELLED = st.sampled_from(
    ["model", "models", "fallbacks", "Model", "fallbac\u212as", "x", '\\"model', "\0", "\x000", "\x000.0"]
)
ESCAPED = st.sampled_from([json.dumps, lambda key: '"' + "".join(rf"\u{ord(letter):04X}" for letter in key) + '" \n'])
TEXTS = st.recursive(
    st.sampled_from(['"a"', '"b"', "1", '"\\\\"', '"{\\"model\\":"']),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda texts: f"[{','.join(texts)}]")
        | st.lists(st.tuples(SPELLED, ESCAPED, inner), max_size=4).map(
            lambda pairs: "{" + ",".join(f"{write(key)}:{text}" for key, write, text in pairs) + "}"
        )
    ),
    max_leaves=12,
)


class Pairs(list):
    """A JSON object with all its keys, equal ones too."""


def models_of(pairs):
    if not isinstance(pairs, Pairs):
        return []
    models = [value for key, value in pairs if key.casefold() == "model"]
    for key, value in pairs:
        if models and key.casefold() in ("models", "fallbacks"):
            models += value if type(value) is list else [value]
    return models if all(isinstance(model, str) for model in models) else []


@settings(deadline=None)
@given(TEXTS)
def test_equal_keys_are_found_at_any_depth_and_in_any_spelling(text):
    pairs = json.loads(text, object_pairs_hook=Pairs)
    assert every_model(PLAIN, text.encode()) == models_of(pairs)
    if isinstance(in_json(in_object(text.encode())), str):
        at = max(at for at, (key, _) in enumerate(pairs) if key == "model")
        pairs[at] = ("model", "new")
        assert json.loads(renamed(text.encode(), "new"), object_pairs_hook=Pairs) == pairs


@pytest.mark.parametrize(
    ("coding", "models"), [("", ["a"]), ("Identity", ["a"]), ("deflate", []), ("identity, br", [])]
)
def test_what_a_server_may_decode_first_names_no_model(coding, models):
    assert every_model(PLAIN, b'{"model": "a"}', coding) == models


def test_the_other_encoding_is_one_that_a_parser_would_guess():
    assert json.loads(UTF_16)["model"] == "secret" and in_object(UTF_16) == {}

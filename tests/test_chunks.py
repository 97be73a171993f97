"""Chunks that only bring another text: known without being parsed, and the same as if they had been."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import chunks, codec, sse
from proxy.chunks import Repeats, Texts
from proxy.errors import StatecarError
from tests.replay.cuts import Cut
from tests.replay.recordings import load, streams
from tests.translate.replies import NOW, USAGE, chunk, open_stream
from tests.upstream.reading import whole

CHOICE = b'"choices":[{"index":0,"delta":{%b},"finish_reason":null}]}'
AROUND = {
    "vllm": b'{"id":"c","object":"chat.completion.chunk","created":1,"model":"m",' + CHOICE % b'"content":%b',
    "python's spaces": b'{"id": "c", "model": "m", "choices": [{"delta": {"role": "assistant", "content": %b}}]}',
    "llama.cpp": b'{"choices":[{"finish_reason":null,"index":0,"delta":{"content":%b}}],"created":1,"model":"m"}',
    "a thought": b'{"id":"c","model":"m",' + CHOICE % b'"role":null,"content":null,"reasoning_content":%b',
    "a refusal": b'{"id":"c","model":"m",' + CHOICE % b'"refusal":%b,"tool_calls":[]',
    "the field's name before it": b'{"id":"content","content":"x","model":"m",' + CHOICE % b'"content":%b',
    "the same field twice": b'{"id":"c",' + CHOICE % b'"content":%b,"content":%b',
    "its delta twice": b'{"choices":[{"delta":{"content":%b},"delta":{"content":"\\u0061"}}]}',
    "its name escaped": b'{"model":"m","content":"a",' + CHOICE % b'"c\\u006fntent":%b',
    "two texts": b'{"model":"m",' + CHOICE % b'"content":%b,"reasoning":%b',
    "usage": b'{"model":"m","usage":{"prompt_tokens":9},' + CHOICE % b'"content":%b',
    "an error": b'{"error":{"message":"no"},' + CHOICE % b'"content":%b',
    "two choices": b'{"choices":[{"delta":{"content":%b}},{"delta":{"content":"b"}}]}',
    "nothing of the kind": b'{"choices":[{"index":0,"delta":{"tool_calls":[{"function":{"arguments":%b}}]}}]}',
    "a name that is no character": b'{"choices":[{"delta":{"\\ud83d":%b}}]}',
    "finish": b'{"model":"m","choices":[{"index":0,"delta":{"content":%b},"finish_reason":"stop"}]}',
}
STRINGS = [
    *(
        json.dumps(text, ensure_ascii=False).encode()
        for text in ["a", "b", " Hé 😀", "", "content", 'x"\\\n', "\u2028"]
    ),
    *(json.dumps(text).encode() for text in ["é😀", "\x00\x7f", chunks._PROBE, "a"]),
    b'"\\ud83d"',  # half a character
    b'"\\ude00"',
    b'"\\/\\u0061"',
]
BROKEN = [
    *(b'"%b"' % text for text in [b"\x01", b"\n", b"\x00", b"\xff", b"\xed\xa0\x80", b"\\", b"\\x", b'a"', b"\\u12"]),
    *(b'"a"%b"b"' % between for between in [b",", b":", b'},"delta":{"content":', b" "]),
    *(b"", b'"', b"null", b"1", b'{"a":"b"}', b'["a"]', b' "a" '),
]


def payload(around, *strings):
    return around % (strings * around.count(b"%b"))[: around.count(b"%b")]


def read(payloads, repeats):
    """What comes of payloads, as an answer is read: chunks, texts, and what cannot be read."""
    rest = iter(payloads)
    while True:
        texts, other = (None, next(rest, None)) if repeats.hopeless else repeats.read(rest)
        if texts:
            yield texts
        if other is None:
            return
        one = parsed(other)
        yield one
        if isinstance(one, dict) and not repeats.hopeless:
            repeats.learn(other, one)


def parsed(payload):
    if isinstance(payload, sse.Failure):
        return f"an error: {payload!r}"
    try:
        return codec.loads(payload)
    except ValueError as exc:
        return str(exc)


PAYLOADS = st.lists(
    st.builds(
        lambda around, string, marked: (sse.Failure if marked else bytes)(payload(AROUND[around], string)),
        st.sampled_from(sorted(AROUND)) | st.just("vllm"),
        st.sampled_from(STRINGS) | st.sampled_from(BROKEN),
        st.sampled_from([False, False, False, True]),
    )
    | st.builds(payload, st.sampled_from([AROUND["vllm"], AROUND["a thought"]]), st.sampled_from(STRINGS)),
    max_size=12,
)


@settings(max_examples=120, deadline=None)
@given(st.lists(PAYLOADS, max_size=3))
def test_any_payloads_are_what_they_would_be_if_each_were_parsed(batches):
    repeats = Repeats()
    for payloads in batches:
        assert repr(list(whole(read(payloads, repeats)))) == repr(list(map(parsed, payloads)))


@pytest.mark.parametrize("name", AROUND)
def test_a_payload_is_known_as_a_repetition_only_where_it_is_one(name):
    for first in STRINGS:
        for string in [*STRINGS, *BROKEN]:
            payloads = [
                payload(AROUND[name], first),
                payload(AROUND[name], string),
                *[payload(AROUND[name], first)] * 2,
            ]
            assert repr(list(whole(read(payloads, Repeats())))) == repr(list(map(parsed, payloads)))


@pytest.mark.parametrize("name", ["vllm", "python's spaces", "llama.cpp", "a thought", "a refusal", "usage"])
def test_payloads_that_differ_in_their_text_alone_are_parsed_once(name):
    texts = [json.loads(string) for string in STRINGS[:9]]
    first, rest = read([payload(AROUND[name], string) for string in STRINGS[:9]], Repeats())
    assert isinstance(first, dict)
    assert rest == texts[1:]


@pytest.mark.parametrize(
    ("before", "after"),
    [(b'"model":"m"', b'"model":"n"'), (b'"index":0', b'"index":1'), (b"null}]", b'"eo"}]'), (b"null}]}", b"null}]]")],
)
@pytest.mark.parametrize("name", ["vllm", "llama.cpp"])
def test_a_payload_that_differs_beside_its_text_is_no_repetition_however_long_it_is(name, before, after):
    learned = payload(AROUND[name], b'"a"').replace(b"null,", b"null, ")
    payloads = [learned, learned.replace(before, after), learned]
    assert repr(list(whole(read(payloads, Repeats())))) == repr(list(map(parsed, payloads)))


def test_a_stream_that_varies_now_and_then_is_still_known():
    """llama.cpp tells the second."""
    repeats, found = Repeats(), []
    for second in range(10):
        told = payload(AROUND["llama.cpp"], b'"a"').replace(b'"created":1', b'"created":%d' % second)
        found += [type(one) for one in read([told] * 3, repeats)]
    assert found == [dict, Texts] * 10


def test_nothing_can_lie_between_what_stands_around_a_text():
    """Its quotes are no part of both."""
    learned = b'{"choices":[{"delta":{"content":"a"}}],"b":"c","d":"e"}'
    short = b'{"choices":[{"delta":{"content":"}}],"b":"c","d":"e"}'
    assert [type(one) for one in read([learned, short], Repeats())] == [dict, str]


def test_what_is_tried_out_is_not_taken_for_the_text_of_a_chunk():
    twice = b'{"choices":[{"delta":{"content":%b,"content":%b}}]}'
    payloads = [twice % (chunks._PROBED, chunks._PROBED), twice % (b'"a"', chunks._PROBED)]
    assert list(whole(read(payloads, Repeats()))) == list(map(parsed, payloads))


def test_payloads_that_vary_in_other_ways_are_soon_taken_for_what_they_are(monkeypatch):
    tried = []
    monkeypatch.setattr(codec, "loads_utf8", lambda data: tried.append(data) or codec.loads(data))
    payloads = [payload(AROUND["vllm"], b'"a"').replace(b'"c"', b'"%d"' % number) for number in range(50)]
    assert not any(isinstance(one, Texts) for one in read(payloads, Repeats()))
    assert 0 < len(tried) <= 8


def test_nothing_is_learned_from_a_payload_that_would_take_long(monkeypatch):
    monkeypatch.setattr(chunks, "_text_field", None)
    Repeats().learn(payload(AROUND["vllm"], b'"%b"' % (b"\\n" * 5000)), {})


# -- what a stream makes of them

TEXT = st.sampled_from(["a", " b", "é😀", '"\n', "[1]", "[", "1]", "", "\ud83d", "\ude00", "<think>", "</think>"])
OTHER = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "a"}, model="other"),
    chunk({"content": "a"}, usage=USAGE),
    chunk({"content": "a"}, service_tier="flex"),
    chunk({"content": "a"}, "stop"),
    chunk({"tool_calls": [{"index": 0, "id": "call_a", "function": {"name": "f", "arguments": "{}"}}]}),
    {"choices": [], "model": "other"},
    {"choices": []},
    {"error": {"message": "dead"}},
]
FIELD = st.sampled_from(["content"] * 4 + ["reasoning", "refusal"])
CHUNKS = st.lists(st.builds(lambda key, text: chunk({key: text}), FIELD, TEXT) | st.sampled_from(OTHER), max_size=14)
REQUESTS = st.sampled_from([{}, {"reasoning": {"summary": "auto"}}])
OPTIONS = st.fixed_dictionaries(dict.fromkeys(["cites", "ascii_only", "think_tags", "logprobs"], st.booleans()))
SEARCHED = {"type": "web_search_call", "x_upstream": {"found": [{"number": 1, "url": "https://a.example/"}]}}


def told(reads, request, options, *, cites):
    """The bytes of every event."""
    stream = open_stream(request, **options)
    if cites:
        stream.learn([SEARCHED])
    events = stream.start()
    try:
        for batch in reads:
            events += stream.feed_all(batch)
            if stream.failure:
                raise stream.failure
        events += stream.finish(NOW, done=True)
    except StatecarError as exc:
        stream.fail(exc)
    return [sse.encode(event) for event in [*events, stream.end()]]


def check_told(given, cuts, request, *, cites, ascii_only, **options):
    """``cuts``: after which of the chunks a read ended."""
    payloads = [json.dumps(one, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") for one in given]
    edges, repeats = [0, *sorted(cuts), len(payloads)], Repeats()
    reads = [payloads[a:b] for a, b in itertools.pairwise(edges)]
    quick, plain = (
        [[one for one in batch if not isinstance(one, str)] for batch in batches]
        for batches in ([read(batch, repeats) for batch in reads], [map(parsed, batch) for batch in reads])
    )
    assert told(quick, request, options, cites=cites) == told(plain, request, options, cites=cites)


@settings(max_examples=120, deadline=None)
@given(CHUNKS, st.lists(st.integers(0, 14), max_size=4), REQUESTS, OPTIONS)
def test_a_stream_tells_the_same_of_repetitions_as_of_whole_chunks(given_, cuts, request, options):
    check_told(given_, cuts, request, **options)


@pytest.mark.parametrize("key", ["content", "reasoning"])
@pytest.mark.parametrize("request_", [{}, {"reasoning": {"summary": "auto"}}], ids=["", "summary"])
@pytest.mark.parametrize("middle", [*OTHER, *map(str, ["\ud83d", "[1", "", "\ude00"])], ids=repr)
def test_what_comes_between_repetitions_changes_nothing_for_them(key, request_, middle):
    between = chunk({key: middle}) if isinstance(middle, str) else middle
    before, after = ([chunk({key: text}) for text in texts] for texts in (["a", "b", "c"], ["] d", "[1]", "", "e"]))
    for cites, ascii_only in itertools.product([False, True], repeat=2):
        check_told([*before, between, *after], [2, 5], request_, cites=cites, ascii_only=ascii_only)


@pytest.mark.parametrize("name", [one.name for one in streams()])
def test_a_recorded_stream_is_told_the_same_whether_repetitions_are_known_or_not(name, monkeypatch):
    pieces = load(name).chunks
    quick = [Cut(pieces).answer(), Cut((b"".join(pieces),)).answer()]
    monkeypatch.setattr(Repeats, "learn", lambda *_: None)
    plain = Cut(pieces).answer()
    assert [shown(answer) for answer in quick] == [shown(plain)] * 2


def shown(answer):
    return list(map(sse.encode, answer)) if isinstance(answer, list) else (answer.status, answer.message)

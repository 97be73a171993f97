"""Event streams: any split of the bytes gives the same payloads; an event leaves as one frame (wire §9.1, §11.4)."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import sse


def decode(*chunks):
    """(payloads, whether each was marked as an error) of a stream that came in these chunks."""
    decoder = sse.Decoder()
    payloads = [payload for chunk in chunks for payload in decoder.feed(chunk)]
    return [(bytes(payload), isinstance(payload, sse.Failure)) for payload in payloads + decoder.flush()]


def good(*payloads):
    return [(payload, False) for payload in payloads]


STREAMS = [
    pytest.param(b"data: a\n\ndata: b\n\n", good(b"a", b"b"), id="lf"),
    pytest.param(b"data: a\r\n\r\ndata: b\r\n\r\n", good(b"a", b"b"), id="crlf (row 34: sse-starlette)"),
    pytest.param(b"data: a\r\rdata: b\r\r", good(b"a", b"b"), id="cr"),
    pytest.param(b"data: a\r\n\ndata: b\n\r\ndata: c\r\r\n", good(b"a", b"b", b"c"), id="mixed line ends"),
    pytest.param(b"\xef\xbb\xbfdata: a\n\n", good(b"a"), id="byte order mark"),
    pytest.param(b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", [], id="only one mark is skipped"),
    pytest.param(b"data: \xef\xbb\xbfa\n\n", good(b"\xef\xbb\xbfa"), id="a mark within is text"),
    pytest.param(b": PROCESSING\n\ndata: a\n: ping\n\n:\n\n", good(b"a"), id="comments (row 30: OpenRouter)"),
    pytest.param(b"data: a\ndata: b\ndata:\ndata: c\n\n", good(b"a\nb\n\nc"), id="several data lines"),
    pytest.param(b"data:a\n\ndata:  b\n\n", good(b"a", b" b"), id="no space, two spaces (row 33: old TGI)"),
    pytest.param(b"data: a\n\ndata: [DONE]", good(b"a", b"[DONE]"), id="no last blank line (row 32)"),
    pytest.param(b"data: a\n\ndata: b\n", good(b"a", b"b"), id="the last line, not the last blank one"),
    pytest.param(b"\n\n\ndata: a\n\n\n\n", good(b"a"), id="blank lines"),
    pytest.param(b"id: 1\nevent: x\nretry: 5\ndata: a\nodd\ndatax: b\n\n", good(b"a"), id="other fields"),
    pytest.param(b"event: error\ndata: a\n\ndata: b\n\n", [(b"a", True), (b"b", False)], id="event: error"),
    pytest.param(b"data: a\nevent:error\n\ndata: b\n\n", [(b"a", True), (b"b", False)], id="event:error afterwards"),
    pytest.param(b"event: error\n\ndata: b\n\n", good(b"b"), id="an error event without data"),
    pytest.param(b"event: error\nevent: x\ndata: a\n\n", good(b"a"), id="the last event line counts"),
    pytest.param(b'data: a\n\nerror: {"code":500}\n\n', [*good(b"a"), (b'{"code":500}', True)], id="error: (row 27)"),
    pytest.param(
        "data: é🙂\n\ndata: \u2028\x85\x0b\n\n".encode(), good("é🙂".encode(), "\u2028\x85\x0b".encode()), id="utf-8"
    ),
    pytest.param(b"data: a\x00b\n\n", good(b"a\x00b"), id="nul"),
    pytest.param(b"", [], id="nothing"),
    pytest.param(b"\xef\xbb", [], id="half a mark"),
    pytest.param(b"data:", good(b""), id="an empty payload"),
]


@pytest.mark.parametrize(("stream", "payloads"), STREAMS)
def test_every_split_gives_the_same_payloads(stream, payloads):
    assert decode(stream) == payloads
    assert decode(*(stream[at : at + 1] for at in range(len(stream)))) == payloads
    for first, second in itertools.combinations_with_replacement(range(len(stream) + 1), 2):
        assert decode(stream[:first], stream[first:second], stream[second:]) == payloads


LINE = st.sampled_from(
    [b"data: a", b"data:b", b"data", b"event: error", b"event: x", b"error: e", b": c", b"", b"", "data: é".encode()]
)
END = st.sampled_from([b"\n", b"\r\n", b"\r"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(LINE, END), max_size=12), st.booleans(), st.data())
def test_any_lines_in_any_pieces_give_the_same_payloads(lines, marked, data):
    stream = b"\xef\xbb\xbf" * marked + b"".join(line + end for line, end in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert decode(*pieces) == decode(stream)
    if not any(end == b"\r" for _, end in lines):  # "\r" and "\n" of two lines would be one line end
        unix = b"".join(line + b"\n" for line, _ in lines)
        assert decode(stream) == decode(unix)


def test_a_payload_comes_with_the_bytes_that_complete_it():
    decoder = sse.Decoder()
    assert decoder.feed(b"data: a\n") == []
    assert decoder.feed(b"\nda") == [b"a"]
    assert decoder.feed(b"ta: b\r") == []
    assert decoder.feed(b"\r") == [b"b"]
    assert decoder.feed(b"\ndata: c\n\ndata: d\n\ndata: e") == [b"c", b"d"]
    assert decoder.flush() == [b"e"]
    assert decoder.flush() == []


def test_a_long_line_in_many_reads_comes_out_whole():
    decoder = sse.Decoder()
    text = b"x" * 1024
    assert not [payload for _ in range(8192) for payload in decoder.feed(text if _ else b"data: " + text)]
    (payload,) = decoder.feed(b"\n\n")
    assert len(payload) == 8192 * 1024


def test_a_line_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(sse, "LINE_LIMIT", 100)
    decoder = sse.Decoder()
    for _ in range(5):
        assert decoder.feed(b"data: " + b"x" * 90 + b"\n") == []
    decoder.feed(b"x" * 100)
    with pytest.raises(ValueError, match="exceeds 100 bytes"):
        decoder.feed(b"x")


@pytest.mark.parametrize("text", ["Hi", "a\nb\r\nc", "\u2028\u2029", "é🙂", "\ud83d", "\x00", 'data: x\n\n"'])
def test_an_event_is_one_frame_whatever_its_text(text):
    event = {"type": "response.output_text.delta", "sequence_number": 1, "delta": text}
    frame = sse.encode(event)
    name, data, *rest = frame.split(b"\n")
    assert name == b"event: response.output_text.delta"
    assert rest == [b"", b""]
    assert b"\r" not in frame
    assert json.loads(data.removeprefix(b"data: ")) == event
    assert decode(frame) == good(data.removeprefix(b"data: "))


def test_keepalives_and_the_end_are_frames_too():
    assert decode(sse.KEEPALIVE, sse.DONE, sse.KEEPALIVE) == good(b"[DONE]")

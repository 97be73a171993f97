"""Which URL of the upstream a caller's path means."""

import pytest

from proxy.errors import NotFound
from proxy.upstream.address import Address

MAPPED = [
    ("http://h:8000/v1", b"/v1/models", b"/v1/models"),
    ("http://h:8000/v1/", b"/v1/models", b"/v1/models"),
    ("http://h/v1", b"/v1/openai/v1/chat/completions", b"/v1/chat/completions"),
    ("http://h/v1", b"/v1/openai/models", b"/v1/openai/models"),
    ("http://h/v1", b"/tokenize", b"/tokenize"),
    ("http://h/v1", b"/v1", b"/v1"),
    ("http://h/v1", b"/v1?x=1", b"/v1?x=1"),
    ("http://h/v1", b"/v10/x", b"/v10/x"),
    ("http://h/v1", b"/", b"/"),
    ("http://h/api/v3", b"/v1/models", b"/api/v3/models"),
    ("http://h/api/v3", b"/metrics", b"/api/v3/metrics"),
    ("http://h/team/v1", b"/v1/models", b"/team/v1/models"),
    ("http://h/team/v1", b"/health", b"/team/health"),
    ("http://h", b"/v1/models", b"/models"),
    ("http+unix://%2Frun%2Fx.sock/v1", b"/v1/models", b"/v1/models"),
    ("http://h/v1", b"/v1/files/a%2Fb%zz/../c//d?q=%2F&&e=", b"/v1/files/a%2Fb%zz/../c//d?q=%2F&&e="),
    ("http://h/v1", b"/v1/models?", b"/v1/models?"),
    ("http://h/v1", b"/v1/models?a=/v1/responses", b"/v1/models?a=/v1/responses"),
    ("http://h/v1", b"/v1/responses2", b"/v1/responses2"),
    ("http://h/v1", b"/v1/files/responses", b"/v1/files/responses"),
    ("http://h/v1", b"/v1/models/\xff", b"/v1/models/\xff"),
]

REFUSED = [
    b"/v1/responses",
    b"/v1/responses/resp_1",
    b"/v1/responses?x=1",
    b"/v1/conversations/",
    b"/v1/openai/v1/responses",
    b"/v1//responses",
    b"//v1/responses",
    b"/v1/./responses",
    b"/v1/models/../responses",
    b"/x/../v1/responses",
    b"/v1/%72esponses",
    b"/v1%2Fresponses",
    b"/%76%31/responses",
    b"/v1/models/%2e%2e/responses/resp_1",
    b"/v1/models%2F..%2Fconversations",
    b"/responses",
    b"/openai/v1/responses",
    b"/v1/openai/v1/openai/v1/responses",
    b"/v1/Responses",
    b"/V1/responses",
    b"/v1/responses;a=b",
    b"/v1\\responses",
    b"/v1/x%5c..%5cresponses",
    b"*",
    b"http://other/v1/models",
]


@pytest.mark.parametrize(("base", "given", "meant"), MAPPED)
def test_a_path_is_mapped_and_otherwise_left_as_it_came(base, given, meant):
    assert Address(base).target(given) == meant


@pytest.mark.parametrize("given", REFUSED)
def test_the_upstreams_own_responses_cannot_be_named_in_any_spelling(given):
    with pytest.raises(NotFound) as caught:
        Address("http://h/v1").target(given)
    assert caught.value.status == 404


def test_the_guard_knows_a_base_without_v1():
    address = Address("http://h/api/v3")
    with pytest.raises(NotFound):
        address.target(b"/v1/responses")
    with pytest.raises(NotFound):
        address.target(b"/responses")
    with pytest.raises(NotFound):
        address.target(b"/v1/v1/responses")


def test_a_preflight_may_ask_for_every_name():
    assert Address("http://h/v1").target(b"/v1/responses", harmless=True) == b"/v1/responses"


@pytest.mark.parametrize("given", [b"/v1/../../other/v1/models", b"/%2e%2e/other", b"/v1/../../team2/v1/models"])
def test_dot_segments_do_not_climb_out_of_the_base(given):
    with pytest.raises(NotFound):
        Address("http://h/team/v1").target(given)


@pytest.mark.parametrize(
    "base",
    [
        "h:8000/v1",
        "ftp://h/v1",
        "http:///v1",
        "http+unix:///v1",
        "http://user:secret@h/v1",
        "http://h/v1?x=1",
        "http://h/v1#x",
        "http://h:port/v1",
        "",
    ],
)
def test_a_base_that_cannot_be_used_is_refused(base):
    with pytest.raises(ValueError, match="URL|upstream"):
        Address(base)


def test_an_address_knows_its_parts():
    assert Address("http://[::1]:8000/v1/").url == "http://[::1]:8000/v1"
    assert Address("https://api.example/v1").name == "api.example"
    unix = Address("http+unix://%2Frun%2Fx.sock/v1")
    assert (unix.socket, unix.name, unix.url) == ("/run/x.sock", "x.sock", "http://localhost/v1")

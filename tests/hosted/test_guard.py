"""Which servers a request may name: every spelling of an address that is not public, and names that lead to one."""

from ipaddress import ip_network

import pytest

from proxy.hosted.guard import Allowed, Guard, Refused, target

PUBLIC = "93.184.215.14"


def guard(*allow, private=(), answers=()):
    """``answers``: what the resolver says, one list for each time it is asked; the last one for ever."""
    left = list(answers)

    async def resolve(host, port):
        return left.pop(0) if len(left) > 1 else left[0]

    return Guard(tuple(map(Allowed.read, allow)), tuple(map(ip_network, private)), resolve)


ILL_WRITTEN = [
    "",
    "mcp.example.com/mcp",
    "//mcp.example.com/mcp",
    "ftp://mcp.example.com/mcp",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_SET",
    "http+unix://%2Frun%2Fdocker.sock/",
    "http://",
    "http:///mcp",
    "http:mcp.example.com",
    "http://user@mcp.example.com/",
    "http://user:password@mcp.example.com/",
    "http://mcp.example.com@127.0.0.1/",
    "http://127.0.0.1\\@mcp.example.com/",
    "http://mcp.example.com\\.evil.test/",
    "http://mcp.example.com#@127.0.0.1/ x",
    "http://mcp.example.com:0/",
    "http://mcp.example.com:65536/",
    "http://mcp.example.com:port/",
    "http://mcp.example.com:80:80/",
    "http://mcp.example.com:+80/",
    "http://mcp .example.com/",
    "http://mcp.example.com/a b",
    "http://mcp.example.com/\r\nx: y",
    "http://mcp.example.com/\tx",
    "http://mcp.example.com/\x00",
    "http://mcp..example.com/",
    "http://.example.com/",
    "http://mcp.example.com../",
    "http://-mcp.example.com/",
    "http://mcp%2eexample.com/",
    "http://%31%32%37.0.0.1/",
    "http://mcp,example.com/",
    "http://mcp_.ex*mple.com/",
    "http://éxample.com/",
    "http://ｅxample.com/",
    "http://１２７.0.0.1/",
    "http://①②⑦.⓪.⓪.①/",
    "http://127。0。0。1/",
    "http://" + "a" * 64 + ".com/",
    "http://" + "a." * 127 + "com/",
    "http://mcp.example.com/" + "a" * 2048,
    # addresses in forms that libraries read each in its own way
    "http://2130706433/",
    "http://017700000001/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://127.0.0.01/",
    "http://127.1/",
    "http://127.0.1/",
    "http://0/",
    "http://0x/",
    "http://127.0.0.1.0/",
    "http://256.0.0.1/",
    "http://1.2.3.0x4/",
    "http://example.com.1/",
    "http://[127.0.0.1]/",
    "http://[::1/",
    "http://::1/",
    "http://[]/",
    "http://[fe80::1%eth0]/",
    "http://[fe80::1%25eth0]/",
    "http://[::ffff:127.0.0.1.5]/",
    "http://[1::2::3]/",
    "http://[v1.x]/",
]


@pytest.mark.parametrize("url", ILL_WRITTEN)
def test_a_url_that_two_parsers_may_read_differently_is_refused(url):
    with pytest.raises(Refused):
        target(url)


def test_a_url_with_a_password_is_refused_with_what_to_use_instead():
    with pytest.raises(Refused, match="use 'authorization' or 'headers'"):
        target("https://user:password@mcp.example.com/")


@pytest.mark.parametrize(
    ("url", "canonical", "host", "port"),
    [
        ("https://mcp.example.com", "https://mcp.example.com/", "mcp.example.com", 443),
        ("HTTPS://MCP.Example.COM./mcp?a=b", "https://mcp.example.com/mcp?a=b", "mcp.example.com", 443),
        ("http://mcp.example.com:80/x", "http://mcp.example.com/x", "mcp.example.com", 80),
        ("http://mcp.example.com:8080/x/", "http://mcp.example.com:8080/x/", "mcp.example.com", 8080),
        ("http://mcp.example.com/x#@127.0.0.1/", "http://mcp.example.com/x", "mcp.example.com", 80),
        ("http://xn--xample-9ua.com/", "http://xn--xample-9ua.com/", "xn--xample-9ua.com", 80),
        ("http://my_host/", "http://my_host/", "my_host", 80),
        ("http://127.0.0.1.:9000/", "http://127.0.0.1:9000/", "127.0.0.1", 9000),
        ("http://[0:0:0:0:0:0:0:1]/", "http://[::1]/", "::1", 80),
        ("http://[2606:4700::6810:84e5]:8443/m", "http://[2606:4700::6810:84e5]:8443/m", "2606:4700::6810:84e5", 8443),
    ],
)
def test_a_url_is_read_once_and_written_anew(url, canonical, host, port):
    at = target(url)
    assert (at.url, at.host, at.port) == (canonical, host, port)
    assert target(at.url) == at


@pytest.mark.parametrize(
    ("allow", "allowed", "not_allowed"),
    [
        (
            "mcp.example.com",
            ["http://mcp.example.com/", "https://MCP.example.com.:99/"],
            ["http://a.mcp.example.com/", "http://example.com/", "http://mcp.example.com.evil.test/", "http://xmcp.example.com/"],
        ),
        ("mcp.example.com:8443", ["https://mcp.example.com:8443/"], ["https://mcp.example.com/", "http://mcp.example.com:8080/"]),
        (
            "*.example.com",
            ["http://a.example.com/", "http://a.b.example.com:1/"],
            ["http://example.com/", "http://badexample.com/", "http://a.example.com.evil.test/"],
        ),
        ("*.example.com:443", ["https://a.example.com/"], ["http://a.example.com/"]),
        ("*", ["http://a/", f"http://{PUBLIC}/", "http://[2606:4700::1]/"], ["http://127.0.0.1/", "http://[::1]/", "http://10.0.0.1/"]),
        ("*:443", ["https://a/"], ["http://a/"]),
        ("127.0.0.1", ["http://127.0.0.1/", "http://127.0.0.1:9000/"], ["http://127.0.0.2/", "http://localhost/", "http://[::ffff:127.0.0.1]/"]),
        ("127.0.0.1:9000", ["http://127.0.0.1:9000/"], ["http://127.0.0.1/"]),
        ("::1", ["http://[::1]/", "http://[0::1]:7/"], ["http://127.0.0.1/", "http://[::2]/"]),
        ("[::1]:7", ["http://[::1]:7/"], ["http://[::1]/"]),
    ],
)  # fmt: skip
def test_hosts_are_allowed_by_name_suffix_address_and_port(allow, allowed, not_allowed):
    told = guard(allow)
    for url in allowed:
        told.permit(target(url).host, target(url).port)
    for url in not_allowed:
        with pytest.raises(Refused):
            told.permit(target(url).host, target(url).port)


NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "127.0.0.1", "127.1.2.3", "127.255.255.255", "10.0.0.1", "10.255.255.255", "172.16.0.1",
    "172.31.255.255", "192.168.0.1", "192.168.255.255", "169.254.0.1", "169.254.169.254", "169.254.170.2",
    "169.254.0.23", "169.254.169.123", "168.63.129.16", "100.64.0.1", "100.100.100.200", "100.127.255.255",
    "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::2", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:0",
    "::127.0.0.1", "::169.254.169.254", "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254",
    "64:ff9b::10.0.0.1", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:7f00:1::", "2001:2::1", "2001:10::1",
    "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:a9fe:a9fe::", "2002:a00:1::1", "3fff::1", "5f00::1",
    "fc00::1", "fd00::1", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fe80::1", "fe80::a9fe:a9fe",
    "fe80::1%eth0", "febf::1", "fec0::1", "ff02::1", "ff05::1:3", "2606:4700::5efe:10.0.0.1",
    "2606:4700::200:5efe:192.168.0.1", "4000::1",
]  # fmt: skip


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_a_name_that_leads_to_an_address_that_is_not_public_is_refused(address):
    for answer in ([address], [PUBLIC, address], [address, PUBLIC]):
        with pytest.raises(Refused) as caught:
            await guard("*", answers=[answer]).addresses("mcp.example.com", 443)
        assert address.partition("%")[0] not in str(caught.value)


@pytest.mark.parametrize("address", [address for address in NOT_PUBLIC if "%" not in address])
def test_such_an_address_itself_is_refused_where_all_hosts_are_allowed(address):
    shown = f"[{address}]" if ":" in address else address
    with pytest.raises(Refused):
        at = target(f"http://{shown}/")
        guard("*").permit(at.host, at.port)


NEVER = [
    "169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fe80::a9fe:a9fe",
    "fd00:ec2::254", "fd20:ce::254", "::ffff:169.254.169.254", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::1",
    "::169.254.169.254", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1", "2606:4700::5efe:169.254.169.254",
]  # fmt: skip


@pytest.mark.parametrize("address", NEVER)
async def test_metadata_services_are_refused_whatever_the_operator_allows(address):
    shown = f"[{address}]" if ":" in address else address
    at = target(f"http://{shown}/")
    wide = guard(
        "*", at.host if ":" not in at.host else f"[{at.host}]", private=["0.0.0.0/0", "::/0"], answers=[[address]]
    )
    with pytest.raises(Refused, match="never asked"):
        wide.permit(at.host, at.port)
    with pytest.raises(Refused, match="never asked"):
        await wide.addresses("mcp.example.com", 80)


@pytest.mark.parametrize(
    "address",
    [PUBLIC, "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.32.0.1", "2606:4700::6810:84e5", "64:ff9b::5db8:d70e"],
)  # fmt: skip
async def test_a_name_that_leads_to_public_addresses_alone_is_asked(address):
    assert await guard("*", answers=[[PUBLIC, address]]).addresses("mcp.example.com", 443) == list(
        dict.fromkeys([PUBLIC, address])
    )


async def test_an_allowed_name_may_lead_into_the_networks_that_the_operator_named():
    private = ["10.1.0.0/16", "fd12::/16", "::1/128"]
    for address in ("10.1.2.3", "fd12::1", "::1"):
        assert await guard("db", private=private, answers=[[address]]).addresses("db", 80) == [address]
    for address in ("10.2.0.1", "fd13::1", "127.0.0.1"):
        with pytest.raises(Refused, match="--mcp-private"):
            await guard("db", private=private, answers=[[address]]).addresses("db", 80)


async def test_a_name_is_looked_at_each_time_it_is_resolved():
    rebinding = guard("*", answers=[[PUBLIC], ["127.0.0.1"]])
    assert await rebinding.addresses("mcp.example.com", 443) == [PUBLIC]
    with pytest.raises(Refused):
        await rebinding.addresses("mcp.example.com", 443)


async def test_a_name_without_addresses_is_an_error_of_the_network():
    with pytest.raises(OSError):
        await guard("*", answers=[[]]).addresses("mcp.example.com", 443)


async def test_a_name_that_is_not_allowed_is_never_resolved():
    asked = guard("mcp.example.com", answers=[])
    with pytest.raises(Refused, match="--mcp-allow"):
        await asked.addresses("evil.test", 80)

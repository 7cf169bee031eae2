"""Which destinations actions can reach."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.actions.egress_rules import EgressRules, InvalidUrl, parse_url
from upshot.errors import ConfigError

NOTHING_ALLOWED = EgressRules()

DENIED_ADDRESSES = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.1.1", "172.16.0.1",
    "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "::10.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::10.0.0.1", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1",
    "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:0a00:0001::1", "3fff::1", "5f00::1",
    "fc00::1", "fd12:3456::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
    "2a00:1450::5efe:10.0.0.1", "2a00:1450::200:5efe:10.0.0.1", "fe80::5efe:192.168.0.1",
]  # fmt: skip
METADATA_ADDRESSES = [
    "169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254",
    "fd20:ce::254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
]  # fmt: skip
PUBLIC_ADDRESSES = [
    "1.1.1.1",
    "8.8.8.8",
    "172.32.0.1",
    "100.128.0.1",
    "2606:4700::1111",
    "2a00:1450::1",
    "64:ff9b::808:808",
]


@pytest.mark.parametrize("address", DENIED_ADDRESSES + METADATA_ADDRESSES)
def test_addresses_that_are_not_public_are_forbidden_for_any_host(address):
    """Every special range is forbidden, in every notation. The reason names the setting that allows it."""
    reason = NOTHING_ALLOWED.check_address("hooks.example.com", 443, address)

    assert reason is not None
    assert "UPSHOT_EGRESS_ALLOW" in reason


@pytest.mark.parametrize("address", PUBLIC_ADDRESSES)
def test_public_addresses_are_allowed(address):
    """A public address is allowed without an entry in the settings."""
    assert NOTHING_ALLOWED.check_address("hooks.example.com", 443, address) is None


def test_one_forbidden_address_makes_the_host_forbidden():
    """A host that also resolves to a private address is forbidden, so that no attempt can choose that address."""
    assert NOTHING_ALLOWED.check_addresses("evil.example.com", 443, ["1.1.1.1", "10.0.0.1"])
    assert NOTHING_ALLOWED.check_addresses("good.example.com", 443, ["1.1.1.1", "8.8.8.8"]) is None


@pytest.mark.parametrize(
    ("entry", "host", "port", "address"),
    [
        pytest.param("127.0.0.0/8", "localhost", 9000, "127.0.0.1", id="network"),
        pytest.param("127.0.0.0/8", "localhost", 9000, "::ffff:127.0.0.1", id="network, mapped into IPv6"),
        pytest.param("::ffff:127.0.0.0/104", "localhost", 9000, "127.0.0.1", id="network written as mapped"),
        pytest.param("10.0.0.0/8:9000", "a", 9000, "10.1.2.3", id="network with a port"),
        pytest.param("[fd00::]/8", "a", 1, "fd12::1", id="IPv6 network in brackets"),
        pytest.param("fd00::/8", "a", 1, "fd12::1", id="IPv6 network"),
        pytest.param("[fd00::/8]:9000", "a", 9000, "fd12::1", id="IPv6 network with a port"),
        pytest.param("::1/128", "localhost", 1, "::1", id="IPv6 loopback"),
        pytest.param("192.168.1.7", "192.168.1.7", 1, "192.168.1.7", id="address"),
        pytest.param("[::1]:8080", "::1", 8080, "::1", id="IPv6 address with a port"),
        pytest.param("hooks.internal", "hooks.internal", 1, "10.0.0.1", id="host"),
        pytest.param("Hooks.Internal.", "hooks.internal", 1, "10.0.0.1", id="host in another spelling"),
        pytest.param("hooks.internal:8443", "hooks.internal", 8443, "10.0.0.1", id="host with a port"),
        pytest.param(" a:1 ,, hooks.internal ", "hooks.internal", 8443, "10.0.0.1", id="among others, with spaces"),
        pytest.param("169.254.169.254", "169.254.169.254", 80, "169.254.169.254", id="metadata by exact address"),
        pytest.param(
            "metadata.google.internal", "metadata.google.internal", 80, "169.254.169.254", id="metadata by exact name"
        ),
    ],
)
def test_an_entry_allows_what_it_names(entry, host, port, address):
    """An entry allows a network, an address or a host name, on all ports or on one."""
    assert EgressRules.parse(entry).check_address(host, port, address) is None


@pytest.mark.parametrize(
    ("entry", "host", "port", "address"),
    [
        pytest.param("10.0.0.0/8:9000", "a", 9001, "10.1.2.3", id="another port"),
        pytest.param("10.0.0.0/8", "a", 1, "127.0.0.1", id="another network"),
        pytest.param("10.0.0.0/8", "a", 1, "64:ff9b::10.0.0.1", id="a network does not allow its NAT64 form"),
        pytest.param("hooks.internal", "evil.hooks.internal", 1, "10.0.0.1", id="a name below it"),
        pytest.param("hooks.internal", "hooks.internal.evil.com", 1, "10.0.0.1", id="a name that begins like it"),
        pytest.param("169.254.0.0/16", "a", 80, "169.254.169.254", id="metadata by a network"),
        pytest.param("169.254.169.254/32", "a", 80, "169.254.169.254", id="metadata by a network of one"),
        pytest.param("0.0.0.0/0", "a", 80, "100.100.100.200", id="metadata by the whole internet"),
        pytest.param("::/0", "a", 80, "fd00:ec2::254", id="metadata by all of IPv6"),
        pytest.param("hooks.internal", "hooks.internal", 80, "169.254.169.254", id="metadata behind an allowed name"),
        pytest.param("127.0.0.0/8", "metadata.google.internal", 80, "1.1.1.1", id="metadata name anywhere"),
    ],
)
def test_an_entry_allows_no_more_than_it_names(entry, host, port, address):
    """Other ports, networks and names stay forbidden, and no network ever allows a metadata service."""
    assert EgressRules.parse(entry).check_address(host, port, address) is not None


@pytest.mark.parametrize(
    "entry",
    ["10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/x", "*.internal", "http://hooks.internal", "a b", "hooks:0", "hooks:99999",
     "hooks:http", "hooks:", "127.1", "2130706433", "[fd00::1", "::1:99999x", "-a.example"],
)  # fmt: skip
def test_an_invalid_entry_is_reported(entry):
    """The error contains the setting, the entry and how to write a valid one."""
    with pytest.raises(ConfigError) as raised:
        EgressRules.parse(f"127.0.0.0/8,{entry}")

    assert str(raised.value).startswith(f"UPSHOT_EGRESS_ALLOW: {entry!r}: ")


@pytest.mark.parametrize(
    "url",
    [
        "", "hooks.example.com", "//hooks.example.com/x", "ftp://hooks.example.com/", "file:///etc/passwd",
        "gopher://127.0.0.1/", "javascript:alert(1)", "unix:///run/docker.sock", "http://", "http:///x", "https:x",
        "http://user:pw@hooks.example.com/", "http://token@hooks.example.com/", "http://:pw@hooks.example.com/",
        "http://hooks.example.com:0/", "http://hooks.example.com:99999/", "http://hooks.example.com:abc/",
        "http://hooks example.com/", "http://hooks.example.com/a b", "http://hooks.example.com/\r\nX: y", "\thttp://a/",
        "http://a..b/", "http://.a/", "http://[::1/", "http://[zz]/", "http://127.0.0.1\\@hooks.example.com/",
        "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://127.1/", "http://0177.0.0.1/",
        "http://017700000001/", "http://0/", "http://127.0.0.1./", "http://256.256.256.256/", "http://1.2.3/",
        "http://" + "a" * 64 + ".example.com/", "http://" + "a." * 127 + "example.com/",
    ],
)  # fmt: skip
def test_an_unusable_url_is_refused_without_a_name_lookup(url):
    """URLs with other schemes, credentials, invalid ports, control characters or disguised addresses are refused."""
    with pytest.raises(InvalidUrl):
        parse_url(url)
    assert NOTHING_ALLOWED.check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9000/", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[0:0:0:0:0:ffff:7f00:1]/",
        "http://①②⑦.⓪.⓪.①/", "http://127。0。0。1/", "http://169.254.169.254/latest/meta-data/",
        "http://metadata.google.internal/", "http://METADATA.google.internal./", "http://[fe80::1%25eth0]/",
    ],
)  # fmt: skip
def test_a_forbidden_address_in_a_file_is_reported_when_it_is_loaded(url):
    """An address that is written in the file is refused without a name lookup."""
    assert "UPSHOT_EGRESS_ALLOW" in (NOTHING_ALLOWED.check_url(url) or "")


@pytest.mark.parametrize(
    ("url", "destination"),
    [
        ("https://Hooks.Example.com/a?b=c", "https://hooks.example.com:443"),
        ("http://hooks.example.com.:8080/", "http://hooks.example.com:8080"),
        ("http://münchen.example/", "http://xn--mnchen-3ya.example:80"),
        ("http://[2606:4700::1111]:1/", "http://[2606:4700::1111]:1"),
        ("http://hooks_a.example.com/", "http://hooks_a.example.com:80"),
        ("http://evil.example#@127.0.0.1/", "http://evil.example:80"),
    ],
)
def test_a_destination_is_named_by_scheme_host_and_port(url, destination):
    """Different spellings of the same destination have the same name, so they share one limit."""
    assert parse_url(url).destination == destination


@given(st.text(max_size=60))
def test_no_text_breaks_the_url_parser(text):
    """Any text is either a valid target or raises InvalidUrl."""
    for url in (text, f"http://{text}/"):
        try:
            target = parse_url(url)
        except InvalidUrl:
            assert NOTHING_ALLOWED.check_url(url)
        else:
            assert target.url.scheme in {"http", "https"}
            assert 0 < target.port < 65536


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_in_ipv6_form_has_the_same_result(address):
    """The IPv4-mapped and NAT64 forms of an address are allowed exactly if the address is. 6to4 never is."""
    plain = NOTHING_ALLOWED.check_address("a", 80, str(address)) is None
    mapped = NOTHING_ALLOWED.check_address("a", 80, f"::ffff:{address}") is None
    through_nat64 = NOTHING_ALLOWED.check_address("a", 80, f"64:ff9b::{address}") is None

    assert mapped == plain
    assert through_nat64 == plain
    assert (
        NOTHING_ALLOWED.check_address("a", 80, f"2002:{int(address) >> 16:x}:{int(address) & 0xFFFF:x}::1") is not None
    )

"""Invalid settings are rejected with a remedy, and missing settings get derived values."""

from socket import gethostname

import pytest

from upshot.cli.settings import settings_with
from upshot.errors import ConfigError
from upshot.wiring.parts import base_url


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("upshot.example.com", id="no scheme"),
        pytest.param("upshot.example.com:8080", id="host and port"),
        pytest.param("ftp://upshot.example.com", id="other scheme"),
        pytest.param("https://", id="no host"),
        pytest.param("https:///path", id="path without host"),
        pytest.param("https://upshot.example.com:http", id="port not a number"),
        pytest.param("https://upshot.example.com:99999", id="port too large"),
        pytest.param("https://[::1", id="incomplete IPv6 address"),
        pytest.param("https://user:word@upshot.example.com", id="user"),
        pytest.param("https://upshot.example.com?x=1", id="query"),
        pytest.param("https://upshot.example.com#x", id="fragment"),
        pytest.param("https://upshot example.com", id="space"),
        pytest.param("https://upshot.example.com/\n", id="line break"),
    ],
)
def test_an_invalid_public_url_is_rejected(url):
    """The message names the setting, the value and the correct form."""
    with pytest.raises(ConfigError, match=r"^UPSHOT_PUBLIC_URL must be a base URL such as https://HOST.*, not '"):
        settings_with(public_url=url)


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        pytest.param({"public_url": "https://upshot.example.com/x/"}, "https://upshot.example.com/x", id="public URL"),
        pytest.param({"public_url": "http://[::1]:80"}, "http://[::1]:80", id="public IPv6 address"),
        pytest.param({"public_url": ""}, "http://127.0.0.1:8080", id="empty, as in a compose file"),
        pytest.param({"host": "::1", "port": 1}, "http://[::1]:1", id="IPv6"),
        pytest.param({"host": "0.0.0.0"}, f"http://{gethostname()}:8080", id="all IPv4 addresses"),
        pytest.param({"host": "::"}, f"http://{gethostname()}:8080", id="all addresses"),
    ],
)
def test_links_begin_with_a_reachable_address(settings, url):
    """Links begin with the public URL, or with the listening address; for all addresses, with the host name."""
    assert base_url(settings_with(**settings)) == url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("allowed_hosts", "https://upshot.example.com"),
        ("allowed_hosts", "upshot.example.com:443"),
        ("allowed_hosts", "*"),
        ("allowed_hosts", "a.example, b.*.example"),
        ("trusted_proxies", "10.0.0.0/33"),
        ("trusted_proxies", "proxy.internal"),
    ],
)
def test_an_invalid_list_is_rejected(name, value):
    """The message names the setting, the form and the wrong entry."""
    with pytest.raises(ConfigError, match=rf"^UPSHOT_{name.upper()} must be .* separated by commas, .*is none"):
        settings_with(**{name: value})

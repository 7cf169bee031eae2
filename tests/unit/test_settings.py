"""Settings: what cannot be meant is refused in words, and what is left out is derived."""

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
        pytest.param("ftp://upshot.example.com", id="another scheme"),
        pytest.param("https://", id="no host"),
        pytest.param("https:///path", id="no host but a path"),
        pytest.param("https://upshot.example.com:http", id="port that is no number"),
        pytest.param("https://upshot.example.com:99999", id="port too large"),
        pytest.param("https://[::1", id="half an address"),
        pytest.param("https://user:word@upshot.example.com", id="user"),
        pytest.param("https://upshot.example.com?x=1", id="query"),
        pytest.param("https://upshot.example.com#x", id="fragment"),
        pytest.param("https://upshot example.com", id="space"),
        pytest.param("https://upshot.example.com/\n", id="line break"),
    ],
)
def test_a_public_url_that_links_cannot_begin_with_is_refused(url):
    """By the setting's name, with what was found and what would be right."""
    with pytest.raises(ConfigError, match=r"^UPSHOT_PUBLIC_URL: .* is no base URL; write https://HOST"):
        settings_with(public_url=url)


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        pytest.param({"public_url": "https://upshot.example.com/x/"}, "https://upshot.example.com/x", id="public URL"),
        pytest.param({"public_url": "http://[::1]:80"}, "http://[::1]:80", id="public IPv6 address"),
        pytest.param({"public_url": ""}, "http://127.0.0.1:8080", id="empty, as compose files leave it"),
        pytest.param({"host": "::1", "port": 1}, "http://[::1]:1", id="IPv6"),
        pytest.param({"host": "0.0.0.0"}, f"http://{gethostname()}:8080", id="all IPv4 addresses"),
        pytest.param({"host": "::"}, f"http://{gethostname()}:8080", id="all addresses"),
    ],
)
def test_links_begin_with_an_address_that_can_be_opened(settings, url):
    """The public one, or where the server listens; a server on all addresses is reached by its machine's name."""
    assert base_url(settings_with(**settings)) == url

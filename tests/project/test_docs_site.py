"""The documentation site: it builds without warnings, contacts no other host and can be read on a phone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from tests.project.repository import ROOT

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
#: Without these, Chromium contacts its maker at every start.
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)
PHONE = {"width": 390, "height": 844}
DIAGRAM_SECONDS = 20


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site and return its directory."""
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", directory],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return directory


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Print nothing."""


@pytest.fixture(scope="module")
def address(site):
    """Serve the site on loopback and return its base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    """Start the machine's Chromium."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium, and run again")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *QUIET])
        yield started
        started.close()


def pages(site):
    """Return the path of each page of the site, except the error page."""
    return sorted(str(path.relative_to(site)) for path in site.rglob("*.html") if path.name != "404.html")


def test_every_page_reads_on_a_phone_without_contacting_another_host(site, address, browser):
    """No page scrolls sideways at a phone's width, and no page sends a request to another host or misses a file."""
    context = browser.new_context(viewport=PHONE)
    elsewhere, failed, too_wide = [], [], []

    def route(route):
        host = urlsplit(route.request.url).netloc
        if f"http://{host}" == address or route.request.url.startswith(("data:", "blob:")):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    context.route("**/*", route)
    page = context.new_page()
    page.on("response", lambda response: failed.append(response.url) if response.status >= 400 else None)
    for path in pages(site):
        page.goto(f"{address}/{path}", wait_until="networkidle")
        assert page.title(), path
        width = page.evaluate("document.scrollingElement.scrollWidth")
        if width > PHONE["width"]:
            too_wide.append((path, width))
    context.close()

    assert not elsewhere
    assert not failed
    assert not too_wide


def test_diagrams_are_drawn(address, browser):
    """Mermaid draws the diagrams of the home and architecture pages from the vendored script."""
    page = browser.new_page()
    for path in ("index.html", "architecture.html"):
        page.goto(f"{address}/{path}")
        # Material draws a diagram into a closed shadow root: its element then has a size and no text.
        page.wait_for_function(
            "() => [...document.querySelectorAll('div.mermaid')].some(each => each.offsetHeight > 50)",
            timeout=1000 * DIAGRAM_SECONDS,
        )
        assert not page.query_selector_all("pre.mermaid"), path
    page.close()


def test_the_site_can_be_searched(address, browser):
    """The search field finds a page by a word in its text."""
    page = browser.new_page()
    page.goto(f"{address}/index.html")
    field = page.locator("input.md-search__input")
    field.click()
    field.press_sequentially("fencing")
    page.wait_for_selector(".md-search-result__item", timeout=1000 * DIAGRAM_SECONDS)
    page.close()

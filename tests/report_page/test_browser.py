"""The page in a real browser: wide and narrow, light and dark, by keyboard. Skips without one."""

from __future__ import annotations

import pytest

from tests.report_page.browser import Browser, find_chromium, opened

PROGRAM = find_chromium()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def browser():
    try:
        with opened(PROGRAM) as browser:
            yield browser
    except (TimeoutError, EOFError, OSError) as error:
        pytest.skip(f"Chromium does not start here: {error}")


def show(browser: Browser, path, width: int = 1100, dark: bool = False) -> None:
    browser.events.clear()
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                 deviceScaleFactor=1, mobile=width < 500)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.call("Emulation.setEmulatedMedia", features=[scheme])
    browser.call("Page.navigate", url=path.as_uri())
    browser.wait_for("Page.loadEventFired")


@pytest.fixture(scope="module")
def files(page, unlabelled_page, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, text in (("labelled", page), ("unlabelled", unlabelled_page)):
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["labelled", "unlabelled"])
@pytest.mark.parametrize("width", [390, 1100])
def test_it_opens_without_a_fault(browser, files, name, width):
    show(browser, files / f"{name}.html", width)
    assert browser.evaluate("document.title") == "A <b>title</b> & more"
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    faults = [*browser.of("Runtime.exceptionThrown"), *browser.of("Runtime.consoleAPICalled"),
              *browser.of("Log.entryAdded")]
    assert faults == []
    urls = [one["request"]["url"] for one in browser.of("Network.requestWillBeSent")]
    assert urls and [url for url in urls if not url.startswith(("file:", "data:"))] == []
    shown = "[...document.images].every(i => i.complete && i.naturalWidth == 64)"
    assert browser.evaluate(shown) and browser.evaluate("document.images.length") > 10
    heights = "[...document.querySelectorAll('main > section, .plot svg')].map(e => e.clientHeight)"
    assert min(h for h in browser.evaluate(heights)) > 60


def test_numbers_stay_in_one_piece_on_a_phone(browser, files):
    show(browser, files / "labelled.html", 390)
    lines = browser.evaluate("""[...document.querySelectorAll('#scores td:not(:last-child)')].map(
        cell => { const range = document.createRange(); range.selectNodeContents(cell);
                  return range.getClientRects().length; })""")
    assert set(lines) == {1}


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_in_light_and_dark(browser, files, dark):
    show(browser, files / "labelled.html", dark=dark)
    brightness = """(element, what) => {
        const [r, g, b] = getComputedStyle(element)[what].match(/[\\d.]+/g).map(Number);
        return (r * 299 + g * 587 + b * 114) / 255000; }"""
    page = browser.evaluate(f"({brightness})(document.body, 'backgroundColor')")
    ink = browser.evaluate(f"({brightness})(document.body, 'color')")
    plot = browser.evaluate(f"({brightness})(document.querySelector('.plot svg text'), 'fill')")
    assert (page < 0.2) == dark and abs(ink - page) > 0.7 and abs(plot - page) > 0.7


def press(browser: Browser, key: str, code: int, text: str = "") -> None:
    which = {"key": key, "code": key, "windowsVirtualKeyCode": code}
    browser.call("Input.dispatchKeyEvent", type="keyDown", text=text, **which)
    browser.call("Input.dispatchKeyEvent", type="keyUp", **which)


def test_by_keyboard(browser, files):
    show(browser, files / "labelled.html")
    press(browser, "Tab", 9)
    assert browser.evaluate("document.activeElement.className") == "skip"
    press(browser, "Enter", 13, "\r")
    assert browser.evaluate("location.hash") == "#content"
    seen = []
    for _ in range(60):
        press(browser, "Tab", 9)
        seen.append(browser.evaluate(
            "document.activeElement.tagName + ' ' + document.activeElement.className"))
        if "ARTICLE ranked" in seen:
            break
    assert "SUMMARY " in seen and seen[-1] == "ARTICLE ranked"


def test_every_picture_has_words(browser, files):
    show(browser, files / "labelled.html")
    unnamed = "[...document.images].filter(i => !i.alt).length"
    assert browser.evaluate(unnamed) == 0
    plots = "[...document.querySelectorAll('.plot')].filter(p => !p.ariaLabel).length"
    assert browser.evaluate(plots) == 0

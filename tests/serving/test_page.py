"""The page in a real browser: rate, watch, search, undo, by mouse and by keyboard; on a phone.

Slow, and skipped where there is no Chromium. METAJAX_SCREENSHOTS names a folder for pictures.
"""

import os
import pathlib
import shutil

import pytest

pytest.importorskip("starlette", reason="pip install metajax[serve]")
pytest.importorskip("uvicorn", reason="pip install metajax[serve]")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    from small_server import Served

    folder = tmp_path_factory.mktemp("page")
    made = Served(folder / "films", folder / "events.sqlite")
    yield made
    made.close()


@pytest.fixture
def page(browser, served):
    """A page of somebody new; whatever it asks of another host, or writes as an error, is told."""
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    made = context.new_page()
    wrong: list[str] = []
    made.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    made.on("pageerror", lambda error: wrong.append(str(error)))
    outside = lambda r: not r.url.startswith((f"http://{served.host}/", "data:"))
    made.on("request", lambda r: wrong.append(r.url) if outside(r) else None)
    made.goto(f"http://{served.host}/")
    made.wait_for_selector("#items .row")
    yield made
    context.close()
    assert not [line for line in wrong if "net::ERR_FAILED" not in line]  # what a test cut off


def shot(page, name: str) -> None:
    folder = os.environ.get("METAJAX_SCREENSHOTS")
    if folder:
        page.screenshot(path=pathlib.Path(folder) / f"{name}.png", full_page=True)


def count(page, selector: str, number: int) -> None:
    """Waits until there are so many; not by a function, which the page's own policy forbids."""
    playwright.expect(page.locator(selector)).to_have_count(number)


def titles(page) -> list[str]:
    found = page.locator("#items .title").all()
    return [one.evaluate("n => n.firstChild.textContent") for one in found]


def test_somebody_new_sees_what_to_do(page):
    assert page.locator("#empty").is_visible() and "Nothing yet." in page.inner_text("#empty")
    assert page.inner_text("#list-title") == "For somebody new"
    assert page.locator("#undo").is_disabled()
    assert titles(page)[0] == "Alien (1979)" and len(titles(page)) == 6
    assert page.locator("#curve circle.here").count() == 1
    shot(page, "empty")


def test_every_click_adapts_list_stars_and_curve(page, served):
    before = page.locator("#curve circle.here").get_attribute("cx")
    page.locator("#items .row", has_text="Alien").get_by_label("5 of 5").click()
    page.wait_for_selector("#said .row")
    expected = served.model.recommend({"Alien": 5})
    assert titles(page) == [one.title for one in expected]
    assert f"{expected[0].score:.2f}" in page.inner_text("#items .row:first-child")
    assert "because you rated Alien (1979) 5" in page.inner_text("#items .row:first-child")
    assert page.locator("#said .rate button.on").count() == 5
    assert page.locator("#curve circle.here").get_attribute("cx") != before
    assert page.locator("#curve circle.mine").count() == 1
    shot(page, "one")
    page.locator("#items .row", has_text="Heat").get_by_label("1 of 5").click()
    count(page, "#said .row", 2)
    assert page.locator("#curve circle.mine").count() == 2
    page.reload()
    page.wait_for_selector("#said .row")
    assert page.locator("#said .row").count() == 2
    page.click("#undo")
    count(page, "#said .row", 1)
    page.get_by_label("Take Alien (1979) back").click()
    page.wait_for_selector("#empty:visible")
    page.click("#fresh")
    page.wait_for_selector("#empty:visible")


def test_search_and_rate_by_keyboard_alone(page):
    page.keyboard.press("/")
    page.keyboard.type("ham")
    page.wait_for_selector("#found [role=option]")
    shot(page, "search")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("#said .picked")
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#said .row:not(.picked)")
    assert "Hamlet (1996)" in page.inner_text("#said")
    assert page.locator("#said .rate button.on").count() == 4
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("2")
    count(page, "#said .row", 2)
    page.keyboard.press("u")
    count(page, "#said .row", 1)
    page.keyboard.press("/")
    page.keyboard.type("zzz")
    page.wait_for_selector("#found .none")


def test_a_phone_shows_it_without_sideways_scrolling(browser, served):
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True)
    page = context.new_page()
    page.goto(f"http://{served.host}/")
    page.wait_for_selector("#items .row")
    page.locator("#items .row", has_text="Godfather").get_by_label("4 of 5").tap()
    page.wait_for_selector("#said .row")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    shot(page, "phone")
    context.close()


def test_a_log_of_events_has_one_button_and_no_stars(browser, tmp_path):
    from small_server import Served

    from metajax.serving.catalogue import Labels

    made = Served(tmp_path / "m", tmp_path / "e.sqlite", Labels("clicks"))
    context = browser.new_context(viewport={"width": 1100, "height": 800}, color_scheme="dark")
    page = context.new_page()
    page.goto(f"http://{made.host}/")
    page.get_by_label("Add Alien (1979)").click()
    count(page, "#said .row", 1)
    assert page.locator("#items .row").count() == 5 and "★" not in page.inner_text("body")
    page.keyboard.press("/")
    page.keyboard.type("braz")
    page.wait_for_selector("#found [role=option]")
    page.keyboard.press("Enter")
    count(page, "#said .row", 2)
    assert "higher is better" in page.inner_text("#caption")
    shot(page, "events")
    context.close()
    made.close()


def test_a_server_that_is_gone_is_told(page, served):
    page.route("**/api/**", lambda route: route.abort())
    page.locator("#items .row").first.get_by_label("3 of 5").click()
    page.wait_for_selector("#error:visible")
    assert "The server does not answer" in page.inner_text("#error")
    assert page.locator("#said .row").count() == 0

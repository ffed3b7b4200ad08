"""The page in a browser: hover, zoom, legends, keyboard, light and dark, a phone's width."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from browsers import WHY_NOT, find_browser, open_browser
from report_rig import write_run
from ssod.plotting.run_data import load_runs
from ssod.report.page import write_page

pytest.importorskip("playwright", reason="Playwright is not installed: pip install playwright")
# One browser for all tests.
pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = find_browser()
    if path is None:
        pytest.skip(WHY_NOT)
    with open_browser(path) as found:
        yield found


@pytest.fixture(scope="module")
def address(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of two runs. `a` has an image whose label changed its class."""
    root = tmp_path_factory.mktemp("browser")
    folders = [write_run(root, squares, name, ["ScoreThreshold"]) for name in "ab"]
    quality = Path(folders[0]) / "pseudo_quality"
    record = json.loads((quality / "step_40.json").read_text())
    record["images"][0]["classes"] = [1]
    (quality / "step_30.json").write_text(json.dumps(record))
    write_page(load_runs(folders), str(root / "report.html"))
    return (root / "report.html").as_uri()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, opened; whatever goes wrong in its script fails the test."""
    yield from _opened(browser, address, viewport={"width": 1200, "height": 900})


@pytest.fixture
def phone(browser: Any, address: str) -> Iterator[Any]:
    """The same page on a phone whose owner likes it dark."""
    more = {"has_touch": True, "is_mobile": True, "color_scheme": "dark"}
    yield from _opened(browser, address, viewport={"width": 375, "height": 700}, **more)


def _opened(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    context = browser.new_context(**options)
    context.set_default_timeout(600_000)  # for machines that are busy
    page = context.new_page()
    troubles: List[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
    outside = ("file:", "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(outside) else troubles.append(r.url))
    page.goto(address)
    yield page
    context.close()
    assert troubles == []


def chart(page: Any, title: str) -> Any:
    """A drawn chart by its title."""
    found = page.locator("figure.chart").filter(has=page.get_by_text(title, exact=True)).first
    found.scroll_into_view_if_needed()
    found.locator(".plot[data-drawn]").wait_for()
    return found


def state(figure: Any) -> Dict[str, Any]:
    """What Plotly shows now."""
    content: Dict[str, Any] = figure.locator(".plot").evaluate(
        "p => ({x: p.layout.xaxis.range, shown: p.data.filter(t => t.visible !== false).map(t => t.meta)})"
    )
    return content


def ground(page: Any) -> str:
    colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return colour


def test_values_on_hover(page: Any) -> None:
    figure = chart(page, "AP on page_test")
    box = figure.locator(".plot .nsewdrag").bounding_box()
    assert figure.locator(".hoverlayer text").count() == 0
    page.mouse.move(box["x"] + box["width"] - 6, box["y"] + box["height"] / 2)
    figure.locator(".hoverlayer text").first.wait_for()
    words = figure.locator(".hoverlayer").text_content()
    assert "40" in words and "a, teacher" in words and "49" in words  # 10 + 39 at step 40


def test_drag_zooms_and_double_click_shows_everything(page: Any) -> None:
    figure = chart(page, "AP on page_test")
    before = state(figure)["x"]
    box = figure.locator(".plot .nsewdrag").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.4 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], middle + 4, steps=5)
    page.mouse.up()
    low, high = state(figure)["x"]
    assert before[0] < low < high < before[1]
    # A new theme keeps the zoom.
    page.locator("#theme").click()
    page.wait_for_timeout(200)
    assert state(figure)["x"] == pytest.approx([low, high])
    figure.scroll_into_view_if_needed()
    box = figure.locator(".plot .nsewdrag").bounding_box()
    for _ in range(50):  # a busy machine may see two single clicks
        page.mouse.dblclick(box["x"] + 0.5 * box["width"], box["y"] + box["height"] / 2)
        page.wait_for_timeout(300)
        if state(figure)["x"] == before:
            break
    assert state(figure)["x"] == before


def test_legend_switches_lines_off(page: Any) -> None:
    """A section's legend serves all of its charts; a chart's own legend that chart."""
    losses = [chart(page, name) for name in ("total_loss", "loss_cls")]
    key = page.locator("section:has-text('Losses') > .legend .key", has_text="b").last
    assert [state(figure)["shown"] for figure in losses] == [["a", "b"]] * 2
    key.click()
    assert key.get_attribute("aria-pressed") == "false"
    assert [state(figure)["shown"] for figure in losses] == [["a"]] * 2
    # Charts that are drawn later know it.
    page.get_by_text("Learning rate and speed").click()
    key.press("Enter")
    assert [state(figure)["shown"] for figure in losses] == [["a", "b"]] * 2
    recall = chart(page, "Recall per class")
    recall.locator(".key", has_text="a").first.click()
    assert state(recall)["shown"] == ["b"]
    assert state(chart(page, "Precision per class"))["shown"] == ["a", "b"]


def test_keyboard(page: Any) -> None:
    figure = chart(page, "AP on page_test")
    plot = figure.locator(".plot")
    before = state(figure)["x"]
    plot.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert figure.locator("output").inner_text().startswith("step 40: a, teacher 49")
    figure.locator(".hoverlayer text").first.wait_for()
    page.keyboard.press("+")
    page.wait_for_function(
        "([p, x]) => p.layout.xaxis.range[0] > x", arg=[plot.element_handle(), before[0]]
    )
    page.keyboard.press("0")
    page.wait_for_function(
        "([p, x]) => p.layout.xaxis.range[0] === x", arg=[plot.element_handle(), before[0]]
    )
    bars = chart(page, "Recall per class")
    bars.locator(".plot").focus()
    page.keyboard.press("ArrowDown")
    assert bars.locator("output").inner_text() == "red: a 0.25, b 0.25"
    # Every control is reached by Tab: from the address bar, the first stop leads to the content.
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.reload()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"


def test_numbers_as_a_table(page: Any) -> None:
    figure = chart(page, "AP on page_test")
    figure.get_by_text("Numbers").click()
    assert figure.locator("tbody tr").first.inner_text().split() == ["20", "29", "9", "29", "9"]


def test_light_and_dark(page: Any) -> None:
    light = ground(page)
    button = page.locator("#theme")
    assert button.inner_text() == "Dark page"
    button.click()
    dark = ground(page)
    assert dark != light and button.inner_text() == "Light page"
    paper = "p => p.layout.paper_bgcolor"
    drawn = chart(page, "AP on page_test").locator(".plot").evaluate(paper)
    assert drawn == page.evaluate(
        "getComputedStyle(document.querySelector('section')).backgroundColor"
    )
    page.reload()
    assert ground(page) == dark
    button.click()
    assert ground(page) == light


def test_phone(phone: Any) -> None:
    assert phone.locator("#theme").inner_text() == "Light page"
    chart(phone, "AP on page_test")
    # Nothing but tables and the list of sections is wider than the screen, and these scroll.
    assert phone.evaluate("document.documentElement.scrollWidth") <= 375
    key = phone.locator("section .legend .key").first
    key.tap()
    assert key.get_attribute("aria-pressed") == "false"
    assert key.bounding_box()["height"] >= 24  # WCAG 2.2's smallest target


def test_images_that_need_a_look(page: Any) -> None:
    section = page.locator("#images-that-need-a-look")
    assert "green 0.90 at step 30 became red 0.90 at step 40" in section.inner_text()
    section.scroll_into_view_if_needed()
    pictures = section.locator("img")
    assert pictures.count() == 3
    for index in range(3):
        pictures.nth(index).scroll_into_view_if_needed()
        page.wait_for_function("p => p.naturalWidth > 0", arg=pictures.nth(index).element_handle())

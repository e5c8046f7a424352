"""The site in headless Chromium, from a disk: sorting, filters, links, viewer, themes, a phone, accessibility, speed.

Marker `browser`: needs Chromium with its driver (Debian: chromium, chromium-driver) and the extra `browser`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.board.site import build
from tests.harness.board.site.worlds import HOSTILE, analysis, fill, hostile, pinned, rows, strips, world

webdriver = pytest.importorskip("selenium.webdriver")
pytestmark = pytest.mark.browser
PLACES = ["index.html", "models/index.html", "models/digits-vgg-2bit-qaa.html", "attacks/index.html", "attacks/mim.html"]
BOARD, ROW = "boards/made-up/v1/index.html", "boards/made-up/v1/rows/digits-vgg--mim.html"
PLACES += [BOARD, ROW]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("site")
    made = world()
    lines = rows(made)
    fill(base / "boards/made-up/v1", pinned(title=HOSTILE), made, [*lines, hostile(lines[0])])
    strips(base / "boards/made-up/v1", lines[:2])
    analysis(base / "boards/made-up/v1")
    build(base / "site", base / "boards")
    return base / "site"


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    programs = (("CHROMIUM", "chromium"), ("CHROMEDRIVER", "chromedriver"))
    binary, service = (os.environ.get(key) or shutil.which(name) for key, name in programs)
    if not binary or not service:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    yield made
    made.quit()


@pytest.fixture(autouse=True)
def nothing_else(driver: Any) -> Iterator[None]:
    """No test may leave an error in the console, or ask for anything but the site's own files."""
    window(driver, 1400)
    yield
    assert [entry["message"] for entry in driver.get_log("browser")] == []
    asked = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith(("file:", "data:", "blob:", "about:"))] == []
    driver.execute_script("try { localStorage.clear() } catch {}")


def window(driver: Any, width: int, dark: bool = False) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": theme})


def visit(driver: Any, site: Path, place: str) -> None:
    driver.get("about:blank")
    driver.get(f"file://{site}/{place}")


def find(driver: Any, selector: str) -> Any:
    return driver.find_element("css selector", selector)


def shown(driver: Any) -> list[tuple[str, str]]:
    """The (attack, substitute) of the rows that are shown, in their order."""
    names = "r => [r.cells[1].dataset.v, r.cells[2].dataset.v]"
    code = f"return [...document.querySelectorAll('#board tbody tr')].map({names})"
    return [tuple(each) for each in driver.execute_script(code)]


def choose(driver: Any, name: str, value: str) -> None:
    field = "const f = document.forms.filters.elements[arguments[0]]; f.value = arguments[1];"
    driver.execute_script(field + "f.dispatchEvent(new Event('input', {bubbles: true}))", name, value)


def column(driver: Any, place: int) -> list[str]:
    cells = "[...document.querySelectorAll('#board tbody tr')].map(r => r.cells[arguments[0]])"
    found: list[str] = driver.execute_script(f"return {cells}.map(c => c.dataset.v ?? c.textContent)", place)
    return found


def test_rows_are_sorted_by_mouse_and_by_keyboard(driver: Any, site: Path) -> None:
    visit(driver, site, BOARD)
    rates = [float(v) for v in column(driver, 3)]
    assert rates == sorted(rates, reverse=True) and len(rates) == 7
    find(driver, "th[data-key=asr] button").click()
    assert [float(v) for v in column(driver, 3)] == sorted(rates)
    assert find(driver, "th[data-key=asr]").get_attribute("aria-sort") == "ascending"
    find(driver, "th[data-key=attack] button").send_keys(webdriver.Keys.ENTER)
    assert column(driver, 1) == sorted(column(driver, 1)) and find(driver, "th[data-key=asr]").get_attribute("aria-sort") is None


def test_filters_stand_in_the_link_and_the_link_restores_them(driver: Any, site: Path) -> None:
    visit(driver, site, BOARD)
    choose(driver, "attack", "mim")
    choose(driver, "qaa", "QAA")
    assert shown(driver) == [("mim", "digits-vgg-2bit-qaa")]
    assert find(driver, "#count").text == "1 of 7 rows"
    choose(driver, "qaa", "")
    choose(driver, "scope", "family:Standard")
    find(driver, "th[data-key=substitute] button").click()
    before, link = shown(driver), driver.current_url
    assert "attack=mim" in link and len(before) == 3
    driver.get("about:blank")
    driver.get(link)
    assert shown(driver) == before
    assert find(driver, "select[name=scope]").get_property("value") == "family:Standard"
    find(driver, "button[type=reset]").click()
    assert len(shown(driver)) == 7 and "#" not in driver.current_url
    visit(driver, site, BOARD + "#attack=%3Cscript%3E&sort=__proto__&scope=nothing&budget=x")
    assert len(shown(driver)) in (0, 7)


def test_another_choice_of_targets_shows_its_rates_groups_and_ranks(driver: Any, site: Path) -> None:
    visit(driver, site, BOARD)
    before = dict(zip(map(tuple, shown(driver)), column(driver, 3), strict=True))
    choose(driver, "scope", "bits:2:QNN")
    after = dict(zip(map(tuple, shown(driver)), column(driver, 3), strict=True))
    page = driver.execute_script("return JSON.parse(document.getElementById('data').textContent)")
    assert after != before
    assert {float(v) for v in after.values() if v} == {r["bits:2:QNN"][0][0] for r in page["rows"] if r["bits:2:QNN"][0]}
    assert after["theirs", "digits-vgg"] == "" and "no data" in find(driver, "#board").text
    assert column(driver, 0)[0] == "1" and column(driver, 0)[-1] == ""


def test_a_budget_of_gradients_ranks_what_it_can_pay(driver: Any, site: Path) -> None:
    visit(driver, site, BOARD)
    choose(driver, "budget", "9")
    assert shown(driver) == []
    choose(driver, "budget", "10")
    assert len(shown(driver)) == 7 and column(driver, 0)[0] == "1"


def test_a_group_marks_the_rows_that_share_it(driver: Any, site: Path) -> None:
    visit(driver, site, BOARD)
    find(driver, "#board tbody .group button").click()
    first = column(driver, 5)[0]
    marked = driver.execute_script("return [...document.querySelectorAll('tr.peer')].map(r => r.cells[5].dataset.v)")
    assert first in marked and 0 < len(marked) < 7
    find(driver, "#board tbody .group button").click()
    assert not driver.find_elements("css selector", "tr.peer")


def test_from_a_number_to_its_images_and_its_command(driver: Any, site: Path) -> None:
    visit(driver, site, BOARD + "#attack=mim&substitute=digits-vgg")
    driver.execute_script("document.querySelector('#board tbody tr').querySelector('a').click()")
    assert driver.current_url.endswith(ROW)
    assert find(driver, ".command pre").text.startswith("harness reproduce ")
    visible = "return [...document.querySelectorAll('.sample')].map(s => !s.hidden)"
    assert driver.execute_script(visible) == [True, False, False]
    find(driver, ".viewer .next").click()
    assert driver.execute_script(visible) == [False, True, False] and find(driver, ".viewer .at").text == "2 of 3"
    find(driver, ".viewer .next").send_keys(webdriver.Keys.ARROW_LEFT)
    assert driver.execute_script(visible) == [True, False, False]
    find(driver, ".sample:not([hidden]) summary").click()
    assert "digits-nin-2bit" in find(driver, ".sample:not([hidden]) table").text
    code = """const done = arguments[0], pixels = [...document.querySelectorAll('.sample:not([hidden]) .pixels')];
        Promise.all(pixels.map(p => new Promise(ok => {
            const image = new Image(); image.onload = () => ok(image.naturalWidth); image.onerror = () => ok(0);
            image.src = getComputedStyle(p).backgroundImage.slice(5, -2); }))).then(done)"""
    assert driver.execute_async_script(code) == [24, 24, 24]


def test_what_a_submission_says_runs_nothing(driver: Any, site: Path) -> None:
    for place in (BOARD, "index.html", "boards/made-up/v1/rows/digits-vgg--theirs--rescored.html", "attacks/theirs.html"):
        visit(driver, site, place)
        assert driver.execute_script("return window.hacked") is None
    visit(driver, site, "boards/made-up/v1/rows/digits-vgg--theirs--rescored.html")
    assert HOSTILE in driver.execute_script("return document.body.textContent")


def test_dark_and_light_follow_the_system_until_one_is_chosen(driver: Any, site: Path) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    visit(driver, site, BOARD)
    light = driver.execute_script(ground)
    window(driver, 1400, dark=True)
    dark = driver.execute_script(ground)
    assert light != dark
    visit(driver, site, BOARD)
    find(driver, "#theme").click()
    assert driver.execute_script(ground) == light
    visit(driver, site, ROW)
    assert driver.execute_script(ground) == light


@pytest.mark.parametrize("place", PLACES)
def test_a_phone_needs_no_scrolling_sideways(driver: Any, site: Path, place: str) -> None:
    window(driver, 390)
    visit(driver, site, place)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("place", PLACES)
def test_axe_finds_nothing_serious(driver: Any, site: Path, place: str, dark: bool) -> None:
    newer = os.environ.get("AXE")  # the axe.min.js of another release than the one that comes with the extra
    axe = pytest.importorskip("axe_core_python") if newer is None else None
    script = Path(newer) if axe is None else next(Path(axe.__file__).parent.rglob("axe.min.js"))
    source = script.read_text(encoding="utf-8")
    window(driver, 1400, dark=dark)
    visit(driver, site, place)
    driver.execute_script(source)
    found = driver.execute_async_script("const done = arguments[0]; axe.run({preload: false}).then(done)")["violations"]
    grave = [v for v in found if v["impact"] in ("serious", "critical")]
    assert [(v["id"], v["nodes"][0]["html"][:200], v["nodes"][0]["failureSummary"]) for v in grave] == []


def test_two_thousand_rows_are_at_hand_within_two_seconds(driver: Any, tmp_path: Path) -> None:
    names = [f"attack-{place}" for place in range(667)]
    made = world(40)
    suite = pinned(attacks=names)
    lines = [row.model_copy(update={"size": None}) for row in rows(made, names)]
    fill(tmp_path / "boards/made-up/v1", suite, made, lines)
    build(tmp_path / "site", tmp_path / "boards")
    visit(driver, tmp_path / "site", BOARD)
    assert find(driver, "#count").text == "2001 rows" and len(shown(driver)) == 200
    ready = driver.execute_script("return performance.getEntriesByName('ready')[0].startTime")
    began = time.perf_counter()
    choose(driver, "attack", "attack-7")
    assert len(shown(driver)) == 3
    filtering = time.perf_counter() - began
    began = time.perf_counter()
    choose(driver, "attack", "")
    find(driver, "th[data-key=attack] button").click()
    assert shown(driver)[0][0] == "attack-0"
    sorting = time.perf_counter() - began
    find(driver, "#more").click()
    assert len(set(shown(driver))) == 2001
    assert ready < 2000 and filtering < 2 and sorting < 2, (ready, filtering, sorting)

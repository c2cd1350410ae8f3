"""The report in a real browser: nothing goes wrong, nothing is loaded, tables sort, and the answer stands first."""

from collections.abc import Iterator

import browser as b
import pytest
from example_runs import store
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By

from analysis import report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WebDriver, str]]:
    folder = tmp_path_factory.mktemp("report")
    with b.chromium(folder / "profile") as browser:
        page = report.write(store(evaluations=3), folder / "r", title="Example", command="lvt run x && lvt report x")
        browser.get(page.as_uri())
        yield browser, page.as_uri()


def test_nothing_goes_wrong_and_nothing_is_loaded(shown: tuple[WebDriver, str]) -> None:
    browser, address = shown
    browser.get(address)
    assert b.complaints(browser) == []
    asked = {url.partition("#")[0] for url in b.requests(browser)}
    own = {url for url in asked if url.startswith(("chrome:", "data:"))}  # the empty page of a new window
    assert asked - own == {address}


def test_the_answer_stands_on_the_first_screen(shown: tuple[WebDriver, str]) -> None:
    browser, address = shown
    browser.get(address)
    height = browser.execute_script("return window.innerHeight")
    chips = browser.find_elements(By.CSS_SELECTOR, ".folklore .chip")
    above = [chip.text for chip in chips if chip.rect["y"] + chip.rect["height"] <= height]
    assert {"1.1 supported", "2.1 supported", "2.2 supported", "3.2 reported"} <= set(above)
    assert len(browser.find_elements(By.CSS_SELECTOR, "figure svg")) >= 8
    assert browser.find_element(By.CSS_SELECTOR, "figure#claims svg").rect["width"] > 500
    assert b.keep(browser, "report-first-screen").stat().st_size > 20_000


def test_a_click_sorts_a_table(shown: tuple[WebDriver, str]) -> None:
    browser, address = shown
    browser.get(address)
    table = browser.find_element(By.CSS_SELECTOR, "#ledger table.sortable")

    def column(place: int) -> list[str]:
        cells = table.find_elements(By.CSS_SELECTOR, f"tbody tr td:nth-child({place})")
        return [cell.text for cell in cells]

    before = column(3)
    heads = table.find_elements(By.CSS_SELECTOR, "thead th")
    browser.execute_script("arguments[0].click()", heads[2])
    assert column(3) == sorted(before, key=str.casefold) != before
    assert heads[2].get_attribute("aria-sort") == "ascending"
    browser.execute_script("arguments[0].click()", heads[0])
    assert column(1)[:3] == ["1.1", "1.2", "1.3"]  # by number
    browser.execute_script("arguments[0].click()", heads[0])
    assert column(1)[0] == "4.4"
    assert b.complaints(browser) == []


def test_the_numbers_of_every_figure_travel_with_the_page(shown: tuple[WebDriver, str]) -> None:
    browser, address = shown
    browser.get(address)
    links = browser.find_elements(By.CSS_SELECTOR, "figcaption a[download]")
    assert len(links) == len(browser.find_elements(By.TAG_NAME, "figure"))
    read = "fetch(arguments[0].href).then(answer => answer.text()).then(arguments[1])"
    tables = {str(link.get_attribute("download")): browser.execute_async_script(read, link) for link in links}
    assert tables["claims.csv"].startswith("id,claim,verdict,")
    assert tables["cost.csv"].splitlines()[0] == "grid,task,model,seed,run_id,metric,at,value"
    assert "efficiency/train_step_seconds" in tables["cost.csv"]


def test_contents_lead_to_their_sections(shown: tuple[WebDriver, str]) -> None:
    browser, address = shown
    browser.get(address)
    links = browser.find_elements(By.CSS_SELECTOR, "nav a")
    assert len(links) > 10
    for link in links:
        target = str(link.get_attribute("href")).partition("#")[2]
        assert browser.find_elements(By.ID, target), target


def test_in_the_dark_the_page_is_dark(shown: tuple[WebDriver, str]) -> None:
    browser, address = shown
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    browser.get(address)
    ground = browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
    assert ground == "rgba(20, 23, 28, 1)"
    b.keep(browser, "report-dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

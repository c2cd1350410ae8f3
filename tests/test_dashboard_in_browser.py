"""The dashboard in a real browser, served as `lvt dashboard` serves it: views, names, colours, verdicts, the report."""

import contextlib
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import browser as b
import pytest
import tracked_runs as truth
from mlflow.tracking import MlflowClient
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.color import Color
from selenium.webdriver.support.ui import WebDriverWait

from analysis import claims, report, runs
from experiments import page
from experiments import schema as s
from experiments.publishing import publish

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[1]
SEEN = 60  # seconds that a page may take to show something


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The store of known runs, its grid's page described and its report published."""
    folder = tmp_path_factory.mktemp("dashboard")
    uri = truth.build(folder)
    client = MlflowClient(uri)
    known = client.get_experiment_by_name(truth.GRID)
    assert known is not None
    table = runs.load(uri, [truth.GRID])
    kinds = set(table["kind"])
    page.describe(client, known.experiment_id, "What it compares.", kinds, first="")
    report.write(table, folder / "report", title="Known", command="lvt report known")
    answers = claims.folklore(table, claims.ledger(table))
    publish(uri, truth.GRID, kinds, claims.headline(answers), claims.summary(answers), folder / "report")
    return uri


@pytest.fixture(scope="module")
def addresses(store: str) -> Iterator[dict[str, str]]:
    """What `lvt dashboard` prints: grid → the address of its page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "lvt.py"), "dashboard", "--port", str(port), "--tracking-uri", store]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == f"dashboard: http://127.0.0.1:{port} (Ctrl-C ends it)\n"
        line = server.stdout.readline()
        until = time.monotonic() + 120
        while time.monotonic() < until:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            time.sleep(0.5)
        found = re.match(r"  (\w+): (http://\S+)$", line)
        assert found is not None, line
        yield {found[1]: found[2]}
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory, addresses: dict[str, str]) -> Iterator[WebDriver]:
    with b.chromium(tmp_path_factory.mktemp("profile")) as browser:
        browser.set_window_size(1600, 1200)
        browser.get(addresses[truth.GRID])
        # The page of a first visit is half covered by MLflow's assistant, which then stays closed.
        WebDriverWait(browser, SEEN).until(lambda w: w.execute_script("return localStorage.length") > 3)
        browser.execute_script(
            "for (const key of Object.keys(localStorage)) if (key.includes('panelOpen')) localStorage[key] = 'false'"
        )
        yield browser


def shown(browser: WebDriver, address: str, *words: str) -> str:
    """The text of a page once all these words stand on it."""
    browser.get("about:blank")
    browser.get(address)

    def text(browser: WebDriver) -> str:
        return str(browser.execute_script("return document.body.innerText"))

    WebDriverWait(browser, SEEN, ignored_exceptions=()).until(
        lambda w: all(word in text(w) for word in words), f"not all of {words} came up"
    )
    return text(browser)


def names(kind: str, known_runs: str) -> set[str]:
    """Of the runs in the store."""
    found = runs.each(runs.load(known_runs, [truth.GRID]))
    return set(found.loc[found["kind"] == kind, "run_name"])


def titles(browser: WebDriver) -> set[str]:
    """Of the charts in the sections that are unfolded."""
    cards = browser.find_elements(By.CSS_SELECTOR, "[data-testid=experiment-view-compare-runs-card]")
    return {card.text.splitlines()[0] for card in cards if card.text}


def linked(browser: WebDriver, words: str) -> str:
    """Where the link with these words in the grid's description leads."""
    return str(browser.find_element(By.LINK_TEXT, words).get_attribute("href"))


def test_the_page_of_a_grid_opens_on_its_runs_by_model(
    window: WebDriver, addresses: dict[str, str], store: str
) -> None:
    learnt = names(s.LEARN, store)
    assert len(learnt) > 15
    text = shown(window, addresses[truth.GRID], *learnt, "test/token_accuracy", "longer/token_accuracy")
    assert not names(s.EFFICIENCY, store) & set(text.split())
    assert {"test/token_accuracy", "longer/token_accuracy", "test/wer"} <= titles(window)
    assert "test/bleu" not in text  # no run has it
    b.keep(window, "dashboard-accuracy")
    dots = window.execute_script(
        "return [...document.querySelectorAll('[data-testid=experiment-view-table-run-color]')].map(dot =>"
        " [dot.closest('.ag-row').innerText.split('\\n').pop(), getComputedStyle(dot).backgroundColor])"
    )
    found = runs.each(runs.load(store, [truth.GRID]))
    model = dict(zip(found["run_name"], found["model"], strict=True))
    seen = {name: Color.from_string(colour).hex.upper() for name, colour in dots}
    assert len(seen) > 10
    assert seen == {name: s.MODEL_COLORS[model[name]] for name in seen}


def test_the_verdicts_stand_in_the_description(window: WebDriver, addresses: dict[str, str], store: str) -> None:
    text = shown(window, addresses[truth.GRID], "accuracy by model · learning curves · throughput against length")
    table = runs.load(store, [truth.GRID])
    answers = claims.folklore(table, claims.ledger(table))
    assert claims.headline(answers) in text
    unfold = '[data-component-id="mlflow.experiment.metadata_editor.expand_button"]'
    window.find_element(By.CSS_SELECTOR, unfold).click()
    WebDriverWait(window, SEEN).until(lambda w: w.find_element(By.XPATH, "//th[text()='verdicts']").is_displayed())
    cells = [cell.text for cell in window.find_elements(By.XPATH, "//table[.//th[text()='verdicts']]//td")]
    assert cells[::3] == [answer.row.name for answer in answers]
    assert cells[2::3] == [answer.sentence for answer in answers]
    assert "1.1 undecided" in cells[1]
    b.keep(window, "dashboard-verdicts")


def test_learning_curves_and_lengths_are_a_click_away(window: WebDriver, addresses: dict[str, str], store: str) -> None:
    shown(window, addresses[truth.GRID], "learning curves")
    learning, length = linked(window, "learning curves"), linked(window, "throughput against length")
    shown(window, learning, *names(s.LEARN, store), "validation/token_accuracy", "Validation by seconds of training")
    assert titles(window) >= {"validation/token_accuracy", "validation/wer"}
    b.keep(window, "dashboard-learning")
    text = shown(window, length, *names(s.EFFICIENCY, store), s.TRAIN_STEP_SECONDS, s.PEAK_MEMORY)
    assert not names(s.LEARN, store) & set(text.split())
    b.keep(window, "dashboard-length")


def test_the_report_opens_in_the_dashboard(window: WebDriver, addresses: dict[str, str]) -> None:
    shown(window, addresses[truth.GRID], "report")
    shown(window, linked(window, "report"), "report.html", "figures")
    WebDriverWait(window, SEEN).until(lambda w: w.find_elements(By.TAG_NAME, "iframe"))
    window.switch_to.frame(window.find_element(By.TAG_NAME, "iframe"))
    WebDriverWait(window, SEEN).until(lambda w: w.find_element(By.CSS_SELECTOR, "table.folklore").is_displayed())
    window.switch_to.default_content()
    b.keep(window, "dashboard-report")

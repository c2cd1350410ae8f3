"""Headless Chromium, for the tests that look at pages as a user does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# No first-run pages, and no requests that the page did not make.
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1440,1000"),
)


@contextmanager
def chromium(profile: Path) -> Iterator[WebDriver]:
    """A browser with a fresh profile; the test is skipped where there is none."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if found is None or driver is None:
        pytest.skip("no Chromium with its driver on this machine (Debian: chromium, chromium-driver)")
    options = Options()
    options.binary_location = found
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    browser.set_page_load_timeout(120)
    try:
        yield browser
    finally:
        browser.quit()


def keep(browser: WebDriver, name: str) -> Path:
    """A screenshot of the window in the folder `LVT_SCREENSHOTS`, or test-screenshots/ of the working directory."""
    folder = Path(os.environ.get("LVT_SCREENSHOTS", "test-screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.png"
    assert browser.save_screenshot(str(file))
    return file


def requests(browser: WebDriver) -> list[str]:
    """Addresses that the page asked for since the last time."""
    import json

    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


def complaints(browser: WebDriver) -> list[str]:
    """Warnings and errors of the console since the last time."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]

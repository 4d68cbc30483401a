"""What all tests share. One thread a process: the members here are small, and the tests run side by side."""

import gc
import os

import pytest
import torch
from playwright.sync_api import sync_playwright

from .browsing import ARGS, CHROMIUM, NO_CHROMIUM
from .properties import register

torch.set_num_threads(1)
# In the processes that tests start too: two threads of each, on cores that all share, would wait for one another.
os.environ["OMP_NUM_THREADS"] = "1"
# What a test measures is no other test's business, and none of the user's.
os.environ["COSPEC_CACHE"] = "off"
register()


def pytest_collection_finish():
    """Modules and tests stay to the end: no search for garbage, of which some tests make many, need look at them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGS)
        yield launched
        launched.close()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    """Say in one line, the last, that the page was not tested, and how to get what it is tested in."""
    yield
    count = sum(NO_CHROMIUM in str(report.longrepr) for report in terminalreporter.stats.get("skipped", ()))
    if count:
        terminalreporter.write_line(f"NOT TESTED: {count} tests of the page and the report; {NO_CHROMIUM}", red=True)

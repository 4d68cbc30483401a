"""What all tests share. One thread a process: the members here are small, and the tests run side by side."""

import pytest
import torch
from playwright.sync_api import sync_playwright

from .browsing import ARGS, CHROMIUM

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGS)
        yield launched
        launched.close()

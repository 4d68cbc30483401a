"""Chromium, as pages are opened in it."""

from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")
# No sandbox within the containers that tests run in; nothing of Chromium's own on the network.
ARGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

NO_CHROMIUM = f"pages are opened in {CHROMIUM}, which is not there: apt-get install chromium fonts-noto-cjk"

in_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason=NO_CHROMIUM)

"""Tiny models, loaded once."""

import pytest

from cospec import Ensemble

from ..cli_models import write_models


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def pair(folder):
    """Two members that are unlike, and a drafter."""
    return Ensemble([folder / "a", folder / "b"], proposer=folder / "c", max_sequences=8)

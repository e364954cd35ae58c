"""Fixtures that every room's tests may ask for."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Arrays of tests are small: a second thread gains nothing, and on a busy machine each wait for it costs more
# than the work.
torch.set_num_threads(1)

# The same examples every time, so that CI tells about the code alone; to look for new ones:
# pytest --hypothesis-profile=default
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test data beside the checkout; tests that need it are marked ``data``."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the shared test data are not at {SHARED_DATA}")
    return SHARED_DATA

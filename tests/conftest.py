"""Settings of every test, and the fixtures that several share."""

from pathlib import Path

import hypothesis
import pytest
import torch

SHARED = Path(__file__).parents[2] / "shared"

torch.set_num_threads(2)  # also on a machine with one core: the threaded paths are to run
hypothesis.settings.register_profile("fastia", deadline=None)  # timings of a busy machine are no failures
hypothesis.settings.load_profile("fastia")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and golden numbers beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"needs real data and golden numbers in {SHARED}")
    return SHARED

"""What every test gets: one thread, no network, its own working folder, and random states put back."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# before anything imports torch or huggingface_hub; child processes inherit it
for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ[name] = "1"


@pytest.fixture(autouse=True)
def own_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative outputs land in the test's own folder, and a test may not rely on where pytest was started."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def random_states_put_back() -> Iterator[None]:
    """A test cannot change what the next one draws. Libraries that nobody has imported stay unimported."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    python_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy else None
    torch_state = torch.get_rng_state() if torch else None
    if torch:
        torch.set_num_threads(1)
    yield
    random.setstate(python_state)
    if numpy and numpy_state is not None:
        numpy.random.set_state(numpy_state)
    if torch and torch_state is not None:
        torch.set_rng_state(torch_state)

"""One tiny base model for all tests of the training code. Torch is loaded only by the tests that ask for these."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model with random weights and a chat template."""
    from tests.trainer.tiny import write_base

    return write_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def torch_as_it_was() -> Iterator[None]:
    """Training in the test's own process sets torch up for it; the next module finds it as it was."""
    import torch

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)

"""What tests and doctests share: the same random numbers every time, and at most two threads."""

import pytest
import torch


def pytest_configure() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)

"""What tests and doctests share: the same random numbers every time, and at most two threads."""

import signal

import pytest
import torch


def pytest_configure() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))
    # a shell's background job ignores Ctrl-C, and what is tested is what Ctrl-C does
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)

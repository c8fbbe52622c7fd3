"""A computation in a process of its own, so that the peak of its memory is its own."""

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

T = TypeVar("T")

GIB = 2**30


def alone(function: Callable[..., T], *arguments: object) -> T:
    """What the function gives, computed in a fresh process.

    Linux begins a process's peak at what its parent held when it was started, so whoever calls
    this keeps little in memory.

    Arguments:
        function: A function of a module.
        arguments: What it is called with; they travel as pickles.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_rss() -> float:
    """The most memory that this process has had in use so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB

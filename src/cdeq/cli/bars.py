"""A progress bar that shows up when it is worth it."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from rich.console import Console
from rich.progress import Progress as Bar

from cdeq.data.lines import Progress

PATIENCE = 2.0
"""Seconds after which a bar shows how far things are."""


@contextmanager
def patient_bar(console: Console) -> Iterator[Progress]:
    """Gives what is to be told of progress: what is being done, how much is done, and how much
    there is. What is over soon prints nothing.

    Arguments:
        console: Where the bar is drawn, and removed at the end.
    """
    bar, began = Bar(console=console, transient=True), perf_counter()
    task = bar.add_task("", total=None)

    def advance(doing: str, done: int, total: int) -> None:
        bar.update(task, description=f"{doing:<22}", completed=done, total=total)
        if perf_counter() - began > PATIENCE:
            bar.start()

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()

"""What several processes of one run agree on: who writes, and when the others go on."""

import os
from collections.abc import Callable
from contextvars import ContextVar

import torch

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)
"""Whether this process is doing what only one may do."""


def is_main() -> bool:
    """Whether this process is the one that writes and prints; alone, it is."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    names = ("RANK",) if "RANK" in os.environ else ("NODE_RANK", "LOCAL_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)


def on_main(work: Callable[[], object]) -> None:
    """Do in one process what only one may do; the others wait until it is done.

    Raises:
        SystemExit: In the others, when the work failed; the one says why.
    """
    if _ALONE.get():  # the others wait already
        work()
        return
    failure: Exception | None = None
    if is_main():
        token = _ALONE.set(True)
        try:
            work()
        except Exception as error:  # raised below, once the others know
            failure = error
        finally:
            _ALONE.reset(token)
    succeeded = [failure is None]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(succeeded, src=0)
    if failure is not None:
        raise failure
    if not succeeded[0]:
        raise SystemExit(1)


def part() -> None:
    """Take leave of the other processes; without it the last one ends with a complaint."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()

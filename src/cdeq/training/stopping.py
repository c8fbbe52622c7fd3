"""Ctrl-C between two updates: a half-done one could not be resumed exactly."""

import signal
import threading
from types import TracebackType

from cdeq.errors import CDEQError


class Interrupted(CDEQError):
    """Training stopped on request; a checkpoint holds where."""


class StopRequest:
    """Turns the first Ctrl-C into a request; a second one stops at once.

    Outside the main thread, where signals cannot be handled, nothing is ever requested, nor in a
    process that ignores Ctrl-C because it runs in the background.

    Example:
        >>> with StopRequest() as stop:
        ...     signal.raise_signal(signal.SIGINT)
        ...     stop.received
        True
    """

    def __init__(self) -> None:
        self.received = False
        self._previous = signal.getsignal(signal.SIGINT)
        ours = self._previous not in (signal.SIG_IGN, None)
        self._handles = ours and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "StopRequest":
        if self._handles:
            signal.signal(signal.SIGINT, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _receive(self, *signal_and_frame: object) -> None:
        self.received = True
        self._restore()

    def _restore(self) -> None:
        if self._handles:
            signal.signal(signal.SIGINT, self._previous)

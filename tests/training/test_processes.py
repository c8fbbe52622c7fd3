"""Several processes: who writes, and who notices a Ctrl-C."""

import signal
import threading

import pytest

from cdeq.training.processes import is_main, on_main
from cdeq.training.stopping import StopRequest


@pytest.mark.parametrize(
    ("environment", "main"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, True),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"LOCAL_RANK": "1", "RANK": "0"}, True),
        ({"LOCAL_RANK": "0", "RANK": "2"}, False),
    ],
    ids=str,
)
def test_one_process_is_main(
    environment: dict[str, str], main: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "NODE_RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done: list[int] = []
    on_main(lambda: done.append(1))
    assert is_main() == main
    assert done == [1] * main


def test_a_failure_is_passed_on() -> None:
    def fail() -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        on_main(fail)


def test_an_ignored_interrupt_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        during = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)
    assert during is signal.SIG_IGN
    assert not stop.received


def test_another_thread_leaves_signals_alone() -> None:
    seen: list[object] = []

    def enter() -> None:
        with StopRequest() as stop:
            seen.extend([signal.getsignal(signal.SIGINT), stop.received])

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler, False]

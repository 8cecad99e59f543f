"""Interrupts that come at a bad moment are delivered after it."""

from __future__ import annotations

import signal
import threading

import pytest

from thalweg.tangent._interrupts import interrupts_held


def test_an_interrupt_inside_is_delivered_at_the_end() -> None:
    done: list[str] = []
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupts_held():  # noqa: PT012  the block is what is tested
        signal.raise_signal(signal.SIGINT)
        done.append("the work was finished")
    assert done
    assert signal.getsignal(signal.SIGINT) is handler


def test_without_an_interrupt_nothing_happens_and_errors_pass() -> None:
    with interrupts_held():
        pass
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="mine"), interrupts_held():
        raise ValueError("mine")
    assert signal.getsignal(signal.SIGINT) is handler


def test_another_thread_runs_the_block_as_it_is() -> None:
    seen: list[bool] = []

    def work() -> None:
        with interrupts_held():
            seen.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


def test_an_own_handler_gets_the_interrupt_and_who_ignores_it_is_left_alone() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            assert seen == []
        assert seen == [signal.SIGINT]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)

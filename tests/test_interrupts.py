from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from aesg.interrupts import Interrupts


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_step_ends_before_the_interrupt_is_raised() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        with interrupts.step():
            interrupt()
            done.append("rest of the step")
        done.append("next step")
    assert done == ["rest of the step"]


def test_outside_a_step_the_interrupt_is_raised_at_once() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Interrupts():
        interrupt()
        done.append("more")
    assert done == []


def test_a_second_interrupt_does_not_wait() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts, interrupts.step():
        interrupt()
        done.append("first held")
        interrupt()
        done.append("second held")
    assert done == ["first held"]


def test_a_step_behind_a_second_interrupt_is_not_interrupted_by_the_first() -> None:
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.step():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        with interrupts.step():
            pass


def test_a_whole_block_ends_before_any_interrupt_is_raised() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts, interrupts.whole():
        interrupt()
        interrupt()
        interrupt()
        done.append("rest of the block")
    assert done == ["rest of the block"]


def test_what_an_inner_block_has_held_waits_for_the_end_of_the_outer_one() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as outer, outer.step():
        with Interrupts() as inner, inner.whole():
            interrupt()
            interrupt()
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]


def test_an_error_of_the_step_is_not_hidden_by_the_interrupt() -> None:
    with pytest.raises(ZeroDivisionError), Interrupts() as interrupts, interrupts.step():
        interrupt()
        raise ZeroDivisionError


def test_the_usual_handler_is_back_afterwards() -> None:
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_program_is_left_in_place() -> None:
    seen: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    with Interrupts() as interrupts, interrupts.step():
        interrupt()
        assert seen == [signal.SIGINT]
    assert seen == [signal.SIGINT]


def test_other_threads_run_steps_without_a_handler() -> None:
    done = []

    def work() -> None:
        with Interrupts() as interrupts, interrupts.step():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.default_int_handler]

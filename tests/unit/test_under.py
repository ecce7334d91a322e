"""under: work with a lock held, whatever strikes meanwhile."""

from __future__ import annotations

import _thread

import pytest
from helpers import in_subprocess

from sysclone._under import under


def test_it_is_held_for_the_work_alone():
    """The lock is held in the function, which gets its arguments, and free after its return and its exception."""
    lock = _thread.allocate_lock()

    assert under(lock, lambda *arguments: (lock.locked(), arguments), 1, 2) == (True, (1, 2))
    assert not lock.locked()
    with pytest.raises(ZeroDivisionError):
        under(lock, lambda: 1 // 0)
    assert not lock.locked()


def test_no_interrupt_leaves_it_held():
    """A handler that raises, at five thousand moments, leaves the lock as free as it was."""
    in_subprocess(
        """
        import _thread, signal
        from sysclone._under import under
        lock, held, struck = _thread.allocate_lock(), 0, 0
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        while struck < 5000:
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + struck % 50))
                while True:
                    under(lock, lock.locked)
            except KeyboardInterrupt:
                struck += 1
            if lock.locked():
                held += 1
                lock.release()
        assert held == 0, held
        """
    )

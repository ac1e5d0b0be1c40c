"""A thread that moves requests on while the program computes, where there are cores for it."""

import atexit
import threading
import time
import weakref

from hpcpar.comm.engine import Engine

__all__ = ["start_progress"]

_PAUSE = 50e-6  # seconds between two rounds: a thread that never pauses would take the interpreter


def start_progress(engine: Engine) -> threading.Thread:
    """Start the thread; it ends with the engine, or with the program.

    It sleeps while nothing is under way. NumPy's large operations and MPI's calls let other threads
    of the interpreter run, so what is under way advances while they last.
    """
    wake = threading.Event()
    engine.started = wake.set
    thread = threading.Thread(
        target=_run, args=(weakref.ref(engine, lambda _: wake.set()), wake), daemon=True,
        name="hpcpar-progress",
    )  # fmt: skip
    thread.start()
    atexit.register(_end, weakref.ref(engine), wake, thread)  # before MPI ends
    return thread


def _run(reference: "weakref.ref[Engine]", wake: threading.Event) -> None:
    while True:
        wake.wait()
        engine = reference()
        if engine is None or engine.ended:
            return
        with engine.lock:
            engine.advance()
            if not engine.active:
                wake.clear()
        del engine
        time.sleep(_PAUSE)


def _end(reference: "weakref.ref[Engine]", wake: threading.Event, thread: threading.Thread) -> None:
    engine = reference()
    if engine is not None:
        engine.ended = True
    wake.set()
    thread.join(timeout=5)

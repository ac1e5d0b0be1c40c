"""The two signals that a rank takes, so that the watcher reaches it whatever it does.

Both work at C level, also while C code holds the GIL:

- `END_SIGNAL`, SIGQUIT, ends the process with exit status 3: its handler is the C library's `_exit`
  itself, which the kernel calls with the number of the signal, and SIGQUIT's is 3.
- `STACK_SIGNAL`, a real-time signal, makes faulthandler write where the main thread is to a file.
"""

import faulthandler
import os
import re
import signal
from pathlib import Path

__all__ = ["END_SIGNAL", "STACK_SIGNAL", "frames", "position", "take"]

END_SIGNAL = signal.SIGQUIT
STACK_SIGNAL = signal.SIGRTMAX - 3

_FRAME = re.compile(r'^  File "(.*)", line (\d+) in ', re.MULTILINE)
_PACKAGE = str(Path(__file__).resolve().parents[2]) + os.sep


def take(stacks: int) -> list[str]:
    """Install both handlers, but none over one of the program's own; which are there: end, stack.

    `stacks` is the file that tracebacks go to.
    """
    import ctypes  # not at the top: the watcher has no use for it

    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    taken = []
    if signal.getsignal(END_SIGNAL) in (signal.SIG_DFL, signal.SIG_IGN):  # a shell's `&` ignores it
        libc.signal(END_SIGNAL, ctypes.cast(libc._exit, ctypes.c_void_p))
        taken.append("end")
    if signal.getsignal(STACK_SIGNAL) == signal.SIG_DFL:
        # Python's end takes faulthandler's back, and a rank may wait in MPI_Finalize after that.
        libc.signal(STACK_SIGNAL, ctypes.c_void_p(int(signal.SIG_IGN)))
        faulthandler.register(STACK_SIGNAL, file=stacks, all_threads=False)
        taken.append("stack")
    return taken


def frames(text: str) -> list[str]:
    """file:line of each frame that faulthandler wrote, the innermost first."""
    return [f"{file}:{line}" for file, line in _FRAME.findall(text)]


def position(stack: list[str]) -> tuple[str, str]:
    """The innermost frame outside this package, and the innermost of all where it is another."""
    outside = [site for site in stack if not site.startswith(_PACKAGE) and "<frozen" not in site]
    where = outside[0] if outside else ""
    return where, stack[0] if stack and stack[0] != where else ""

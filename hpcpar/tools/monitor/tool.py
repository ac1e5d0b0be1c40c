"""python -m hpcpar monitor RUN [--once]"""

import time
from pathlib import Path

from hpcpar.tools.monitor.reading import read
from hpcpar.tools.monitor.view import WIDTH, draw

__all__ = ["monitor"]

LOOKS = 4  # a second


def monitor(run: str, once: bool = False) -> None:
    """Watch a run in the terminal, from the files of its folder alone.

    From any machine that sees them, before the run starts, while it runs and after. It ends when
    the run is done, or with Ctrl-C, and starts no MPI.

    Args:
        run: The folder of a run.
        once: Print what there is now, once.
    """
    from rich.console import Console
    from rich.live import Live

    folder = Path(run)
    console = Console(highlight=False, markup=False, emoji=False)
    if once:
        console.width = max(WIDTH, console.width)
        console.print(draw(read(folder), time.time()))
        return
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                seen = read(folder)
                live.update(draw(seen, time.time()), refresh=True)
                if seen.summary is not None:
                    return
                time.sleep(1 / LOOKS)
    except KeyboardInterrupt:
        return

"""python -m hpcpar monitor: a run as its folder tells it, from any machine that sees that.

- `reading`: what the files say, whatever is in them. `view`: the same for a terminal.
"""

from hpcpar.tools.monitor.tool import monitor

__all__ = ["monitor"]

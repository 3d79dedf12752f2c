"""Programs that Hypothesis makes up, run on stdlib asyncio and on ffloop: the logs must be equal.

`world` holds what both kinds of program need: a log, a clock that only the program moves, runs that end when nothing is
left to do. `scheduling` runs programs of handles and timers, `streams` programs of a transport and its peer; each says
what it takes care of, so that only the loop can make a difference. The allowances for docs/differences.md and for
older versions of asyncio stand there too, where they are made.
"""

import pytest

pytest.importorskip("hypothesis", reason="PyPy has no wheel of it")

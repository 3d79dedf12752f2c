"""A loop whose every sign of life is written down.

What lives here: the log, the clock, and runs that end by themselves. Nothing about what is run.
"""

import contextvars
import logging
import re
import warnings

VAR = contextvars.ContextVar("VAR", default="-")

TURNS = 3000
"""Turns after which a run is taken to spin for ever."""


class Spinning(BaseException):
    """A run does not come to rest."""


class World(logging.Handler):
    """A loop under observation.

    Time stands still but for `advance()`, and for the wait for a timer, which takes no time. A run ends when there is
    nothing left but to wait for ever.
    """

    def __init__(self, make_loop, debug=False, patience=0):
        """patience: seconds to listen for the kernel before it is taken to have nothing more to say."""
        super().__init__(logging.WARNING)
        self.log = []
        self.now = 1000.0
        self.patience = patience
        self.loop = loop = make_loop()
        self._poll = loop._selector.select
        loop._selector.select = self._select
        loop.time = lambda: self.now
        loop.set_debug(debug)
        loop.set_exception_handler(self._told)
        self._turns = self._quiet = 0

    def note(self, *entry):
        self.log.append(entry)

    def attempt(self, name, function, *arguments):
        """Call, and note what came of it."""
        try:
            result = function(*arguments)
        except BaseException as exc:
            self.note(name, "raised", *described(exc))
        else:
            if result is not None:
                self.note(name, "returned", result)
            return result

    def advance(self, seconds):
        self.now += seconds

    def _select(self, timeout):
        self._turns += 1
        if self._turns > TURNS:
            raise Spinning
        found = self._poll(0)
        if found or timeout == 0 or self.loop._ready:
            self._quiet = 0
            return found
        if timeout is not None:
            self.now += timeout
            return found
        # Twice: what one end does in answer to the other may show only then.
        self._quiet += 1
        if self._quiet == 1 and self.patience:
            return self._poll(self.patience)
        if self._quiet > 1:
            self.loop.stop()
        return found

    def run(self, function=None, *arguments):
        """Run until nothing is left to do, or until somebody stops the loop or interrupts it."""
        self._turns = self._quiet = 0
        try:
            (function or self.loop.run_forever)(*arguments)
        except BaseException as exc:
            self.note("run", "raised", *described(exc))

    def _told(self, loop, context):
        exc = context.get("exception")
        self.note("handler", plain(context["message"]), *described(exc))

    def emit(self, record):
        """Take a record of the logger `asyncio`."""
        self.note("logged", record.levelname, plain(record.getMessage()))

    def finish(self):
        """Close the loop; return the log."""
        del self._poll
        del self.loop._selector.select
        self.loop.close()
        return self.log


def described(exc):
    return (type(exc).__name__, plain(str(exc))) if exc is not None else ("None",)


def plain(message):
    """Return a message without what names the loop's own functions, classes and addresses."""
    message = message.replace("recv_into() argument 1 must be", "get_buffer() must return a")
    message = message.replace("bytes, bytearray, or memoryview object", "bytes-like object")  # before 3.15, or so
    # A callback is named by its representation, and a transport's methods by its class.
    message = re.sub(r"^Exception in (a )?callback\b.*", "Exception in callback", message, flags=re.S)
    return re.sub(r"<.*>", "<...>", message, flags=re.S)


def observe(make_loop, play, **options):
    """Return the log of `play(world)`, in a context of its own."""

    def observed():
        world = World(make_loop, **options)
        logger = logging.getLogger("asyncio")
        logger.addHandler(world)
        propagate, logger.propagate = logger.propagate, False
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                play(world)
                log = world.finish()
        finally:
            logger.removeHandler(world)
            logger.propagate = propagate
        log += [("warning", item.category.__name__, plain(str(item.message))) for item in caught]
        return log

    return contextvars.copy_context().run(observed)

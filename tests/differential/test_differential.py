"""What Hypothesis makes up, and how much of it.

FFLOOP_DIFFERENTIAL=5000 looks for differences with so many examples of each test, other ones in every run; a plain run
has a few, the same ones every time.
"""

import asyncio
import os
import socket

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import ffloop

from . import scheduling, streams
from .world import observe

HUNT = int(os.environ.get("FFLOOP_DIFFERENTIAL", "0"))


def examples(number):
    return settings(
        max_examples=HUNT or number,
        derandomize=not HUNT,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )


def both(play, **options):
    return [observe(factory, play, **options) for factory in (asyncio.SelectorEventLoop, ffloop.new_event_loop)]


# Handles and timers

DELAYS = st.sampled_from([0, -1, 0.25, 0.5, 1, 1, 1.0000001])
CALLS = st.integers(0, 4)
WHICH = st.integers(0, 6)
CONTEXTS = st.sampled_from("xyz")
WRONG = [
    ("call_later", None, print),
    ("call_at", None, print),
    ("call_soon", None),
    ("call_soon", 5),
    ("call_soon", asyncio.sleep),
    ("call_soon_threadsafe", asyncio.sleep),
    ("call_later", "x", print),
    ("call_at", 5, asyncio.sleep),
]

SCHEDULING = st.one_of(
    st.tuples(st.just("soon"), CALLS),
    st.tuples(st.just("threadsafe"), CALLS),
    st.tuples(st.just("later"), DELAYS, CALLS),
    st.tuples(st.just("at"), DELAYS, CALLS),
    st.tuples(st.just("cancel"), WHICH),
    st.tuples(st.just("look"), WHICH),
    st.tuples(st.just("stop")),
    st.tuples(st.just("raise"), st.sampled_from(list(scheduling.RAISABLE))),
    st.tuples(st.just("context"), CONTEXTS),
    st.tuples(st.just("advance"), st.sampled_from([0.25, 1])),
    st.sampled_from(WRONG).map(lambda arguments: ("wrong", *arguments)),
)

SCHEDULING_PROGRAMS = st.builds(
    scheduling.Program,
    debug=st.booleans(),
    callbacks=st.lists(st.lists(SCHEDULING, max_size=4), min_size=1, max_size=5),
    steps=st.lists(
        st.tuples(SCHEDULING | st.tuples(st.just("debug"), st.booleans()), st.booleans()), min_size=1, max_size=8
    ),
)


@given(SCHEDULING_PROGRAMS)
@examples(300)
def test_programs_of_handles_and_timers_run_alike(program):
    theirs, ours = both(scheduling.play(program), debug=program.debug)
    assert ours == theirs


# Streams

LIMITS = [(None, None), (0, None), (0, 0), (100_000, 0), (None, 50_000), (1, 5), (-1, None), (500_000, 400_000)]

SIMPLE = st.one_of(
    st.tuples(
        st.just("write"),
        st.sampled_from(["empty", "small", "medium", "huge"]),
        st.sampled_from(["bytes", "bytearray", "memoryview", "changed"]),
        st.booleans(),
    ),
    st.tuples(st.just("write_wrong"), st.sampled_from(["text", 5, None, [b"x"]])),
    st.tuples(st.just("writelines"), st.sampled_from(["list", "iterator", "none"])),
    st.tuples(st.just("write_eof")),
    st.tuples(st.just("close")),
    st.tuples(st.just("abort")),
    st.tuples(st.just("pause")),
    st.tuples(st.just("resume")),
    st.sampled_from(LIMITS).map(lambda limits: ("limits", *limits)),
    st.tuples(st.just("set_protocol"), st.booleans()),
    st.tuples(st.just("state")),
    st.tuples(st.just("context"), CONTEXTS),
    st.tuples(st.just("stop")),
    st.tuples(st.just("peer_send"), st.sampled_from([1, 10, 10_000])),
    st.tuples(
        st.just("peer_shutdown"), st.sampled_from([socket.SHUT_WR, socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR])
    ),
    st.tuples(st.just("peer_close")),
    st.tuples(st.just("peer_reset")),
)
OPERATIONS = SIMPLE | st.tuples(st.just("soon"), st.lists(SIMPLE, min_size=1, max_size=3))
SEVERAL = st.lists(OPERATIONS, max_size=3)
RAISES = st.none() | st.sampled_from(list(streams.RAISABLE))


def reactions(results=(None,), raises=RAISES, operations=SEVERAL):
    return st.lists(st.builds(streams.Reaction, operations, st.sampled_from(results), raises), max_size=3)


STREAM_PROGRAMS = st.builds(
    streams.Program,
    family=st.sampled_from(["unix", "tcp"]),
    debug=st.booleans(),
    buffered=st.booleans(),
    reactions=st.fixed_dictionaries(
        {},
        optional={
            "connection_made": reactions(),
            "data": reactions(),
            "get_buffer": reactions([None, None, "empty", "constant", "none", "tiny"]),
            "eof_received": reactions([None, True, False]),
            "pause_writing": reactions(),
            "resume_writing": reactions(),
            "connection_lost": reactions(),
        },
    ),
    groups=st.lists(st.tuples(st.booleans(), st.lists(OPERATIONS, max_size=4), st.booleans()), max_size=6),
)


@given(STREAM_PROGRAMS)
@examples(400)
def test_programs_of_a_stream_and_its_peer_run_alike(program):
    patience = 0.002 if program.family == "tcp" else 0
    theirs, ours = both(streams.play(program), debug=program.debug, patience=patience)
    ours, theirs = streams.tidied(ours), streams.tidied(theirs)
    assert ours == theirs

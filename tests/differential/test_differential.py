"""What Hypothesis makes up, and how much of it.

FFLOOP_DIFFERENTIAL=5000 looks for differences with so many examples of each test, other ones in every run; a plain run
has a few, the same ones every time.
"""

import asyncio
import os
import socket
import ssl

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import ffloop
from ffloop.tls import protocol_class

from ..conftest import PAUSES
from . import scheduling, streams, tls
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
def test_programs_that_schedule_run_alike(program):
    theirs, ours = both(scheduling.play(program), debug=program.debug)
    assert ours == theirs


# Streams

LIMITS = [(None, None), (0, None), (0, 0), (100_000, 0), (None, 50_000), (1, 5), (-1, None), (500_000, 400_000)]

WRITING = [
    st.tuples(
        st.just("write"),
        st.sampled_from(["empty", "small", "medium", "huge"]),
        st.sampled_from(["bytes", "bytearray", "memoryview", "changed"]),
        st.booleans(),
    ),
    st.tuples(st.just("write_wrong"), st.sampled_from(["text", 5, None, [b"x"]])),
    st.tuples(st.just("writelines"), st.sampled_from(["list", "iterator", "none"])),
    st.tuples(st.just("write_eof")),
    st.sampled_from(LIMITS).map(lambda limits: ("limits", *limits)),
]
READING = [
    st.tuples(st.just("pause")),
    st.tuples(st.just("resume")),
    st.tuples(st.just("set_protocol"), st.booleans()),
    st.tuples(st.just("peer_send"), st.sampled_from([1, 10, 10_000])),
    st.just(("peer_shutdown", socket.SHUT_WR)),
]
ENDING = [
    st.tuples(st.just("close")),
    st.tuples(st.just("abort")),
    st.tuples(st.just("peer_shutdown"), st.sampled_from([socket.SHUT_RD, socket.SHUT_RDWR])),
    st.tuples(st.just("peer_close")),
    st.tuples(st.just("peer_reset")),
]
AROUND = [st.tuples(st.just("state")), st.tuples(st.just("context"), CONTEXTS), st.tuples(st.just("stop"))]

READING_EVENTS = {
    "connection_made": [None],
    "data": [None],
    "get_buffer": [None, None, "empty", "constant", "none", "tiny"],
    "eof_received": [None, True, False],
    "connection_lost": [None],
}
WRITING_EVENTS = {
    "connection_made": [None],
    "pause_writing": [None],
    "resume_writing": [None],
    "connection_lost": [None],
}


def programs(operations, events):
    """Return a strategy for programs of these operations, whose protocols react to these events."""
    single = st.one_of(*operations)
    operation = single | st.tuples(st.just("soon"), st.lists(single, min_size=1, max_size=3))
    raises = st.none() | st.none() | st.sampled_from(list(streams.RAISABLE))
    reactions = {
        event: st.lists(
            st.builds(streams.Reaction, st.lists(operation, max_size=3), st.sampled_from(results), raises),
            min_size=1,
            max_size=3,
        )
        for event, results in events.items()
    }
    return st.builds(
        streams.Program,
        family=st.sampled_from(["unix", "tcp"]),
        debug=st.booleans(),
        buffered=st.booleans(),
        reactions=st.fixed_dictionaries({}, optional=reactions),
        groups=st.lists(
            st.tuples(st.booleans(), st.lists(operation, min_size=1, max_size=4), st.booleans()), min_size=1, max_size=6
        ),
    )


def run_alike(program):
    patience = 0.002 if program.family == "tcp" else 0
    theirs, ours = both(streams.play(program), debug=program.debug, patience=patience)
    ours, theirs = streams.tidied(ours), streams.tidied(theirs)
    assert ours == theirs


@PAUSES
@given(programs(READING + AROUND, READING_EVENTS))
@examples(150)
def test_programs_that_read_run_alike(program):
    run_alike(program)


@given(programs(WRITING + AROUND, WRITING_EVENTS))
@examples(150)
def test_programs_that_write_run_alike(program):
    run_alike(program)


@PAUSES
@given(programs(READING + ENDING + AROUND, READING_EVENTS))
@examples(150)
def test_programs_that_read_to_the_end_run_alike(program):
    run_alike(program)


@given(programs(WRITING + ENDING + AROUND, WRITING_EVENTS))
@examples(150)
def test_programs_that_write_to_the_end_run_alike(program):
    run_alike(program)


@PAUSES
@given(programs(READING + WRITING + ENDING + AROUND, READING_EVENTS | WRITING_EVENTS))
@examples(150)
def test_programs_of_everything_run_alike(program):
    run_alike(program)


# TLS


@pytest.fixture(scope="module")
def contexts():
    trustme = pytest.importorskip("trustme", reason="it needs cryptography, of which PyPy has no wheel")
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


@examples(150)
@given(seed=st.integers(0, 1 << 32), version=st.sampled_from([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]))
def test_tls_says_and_sends_what_asyncios_own_does(contexts, seed, version):
    contexts[0].maximum_version = version
    assert protocol_class() is not asyncio.sslproto.SSLProtocol
    theirs = tls.play(asyncio.sslproto.SSLProtocol, contexts, seed)
    assert tls.play(protocol_class(), contexts, seed) == theirs

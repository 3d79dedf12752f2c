"""CPython's own tests of asyncio, run on ffloop: every new event loop is one of ours."""

import asyncio
import gc
import unittest
import warnings

import pytest

from .listed import NOT_PASSING, NOT_RUN
from .replaced import Loop, only_ffloop

_failed_before = False


def _name(item):
    """Return how `listed.py` calls the test; None when it is none of CPython's."""
    return item.nodeid.partition("test_conformance.py::")[2].replace("::", ".") or None


def pytest_collection_modifyitems(items):
    for item in items:
        name = _name(item)
        if name in NOT_RUN:
            item.add_marker(pytest.mark.skip(reason=NOT_RUN[name]))
        elif name in NOT_PASSING:
            # Strict: a test on the list that passes is an error, so that the list stays true.
            item.add_marker(pytest.mark.xfail(reason=NOT_PASSING[name], strict=True))


def pytest_collection_finish():
    if hasattr(gc, "freeze"):
        # Some tests collect garbage hundreds of times; what pytest holds need not be looked through each time.
        gc.freeze()


@pytest.fixture(autouse=True)
def _ffloop_everywhere(request):
    global _failed_before
    if _failed_before:
        # What a test on the list has left lying about is not to warn in the middle of the next one.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    _failed_before = _name(request.node) in NOT_PASSING
    with only_ffloop():
        yield
    # Before 3.14 a test may leave a child watcher behind, with which stdlib asyncio could start no children any more.
    policy = vars(asyncio.events).get("_event_loop_policy")
    if getattr(policy, "_watcher", None) is not None:
        policy._watcher = None


@pytest.fixture(autouse=True, scope="class")
def _made_a_loop(request):
    """Fails when a class has made none of our loops: its tests judge nothing here, and belong on the list."""
    before = Loop.made
    yield
    selected = [item for item in request.session.items if item.cls is request.cls]
    whole = len(selected) == len(unittest.defaultTestLoader.getTestCaseNames(request.cls))
    skipped = all(item.get_closest_marker("skip") for item in selected) or getattr(
        request.cls, "__unittest_skip__", False
    )
    assert Loop.made > before or skipped or not whole, f"{request.cls.__name__} makes no event loop of ffloop's"

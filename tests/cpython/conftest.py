"""CPython's own tests of asyncio, run on ffloop: every new event loop is one of ours."""

import asyncio
import gc
import warnings

import pytest

import ffloop

from .listed import LISTED

_failed_before = False


def listed(item):
    return LISTED.get(item.nodeid.partition("test_conformance.py::")[2])


@pytest.fixture(autouse=True)
def _ffloop_everywhere(monkeypatch, request):
    global _failed_before
    if _failed_before:
        # What a test on the list has left lying about is not to warn in the middle of the next one.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    _failed_before = listed(request.node) is not None
    monkeypatch.setattr(asyncio, "new_event_loop", ffloop.new_event_loop)
    monkeypatch.setattr(asyncio.events, "new_event_loop", ffloop.new_event_loop)


def pytest_collection_modifyitems(items):
    for item in items:
        reason = listed(item)
        if reason is not None:
            # Strict: a test on the list that passes is an error, so that the list stays true.
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))

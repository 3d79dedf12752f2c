"""CPython's own tests of asyncio, run on ffloop: every new event loop is one of ours."""

import asyncio

import pytest

import ffloop

from .listed import LISTED


@pytest.fixture(autouse=True)
def _ffloop_everywhere(monkeypatch):
    monkeypatch.setattr(asyncio, "new_event_loop", ffloop.new_event_loop)
    monkeypatch.setattr(asyncio.events, "new_event_loop", ffloop.new_event_loop)


def pytest_collection_modifyitems(items):
    for item in items:
        reason = LISTED.get(item.nodeid.partition("test_conformance.py::")[2])
        if reason is not None:
            # Strict: a test on the list that passes is an error, so that the list stays true.
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))

"""The mixins of `test.test_asyncio` of the running interpreter that exercise a loop."""

import sys
import unittest

import pytest

import ffloop

# Debian keeps CPython's tests in a package of their own.
pytest.importorskip("test.test_asyncio", reason="this Python has come without its test suite")

from test.test_asyncio import (
    test_buffered_proto,
    test_events,
    test_server,
    test_sock_lowlevel,
    test_ssl,
    test_sslproto,
    test_streams,
)
from test.test_asyncio import utils as test_utils


class TestEvents(test_events.EventLoopTestsMixin, test_utils.TestCase):
    def create_event_loop(self):
        return ffloop.new_event_loop()


class TestSockets(test_sock_lowlevel.BaseSockTestsMixin, test_utils.TestCase):
    def create_event_loop(self):
        return ffloop.new_event_loop()


class TestStartServer(test_server.BaseStartServer, unittest.TestCase):
    def new_loop(self):
        return ffloop.new_event_loop()


if sys.version_info >= (3, 12):

    class TestServer(test_server.TestServer2):
        pass


class TestBufferedProtocol(test_buffered_proto.BaseTestBufferedProtocol, unittest.TestCase):
    def new_loop(self):
        return ffloop.new_event_loop()


class TestStreams(test_streams.StreamTests):
    pass


class TestSSL(test_ssl.TestSSL):
    pass


class TestStartTLS(test_sslproto.BaseStartTLS, unittest.TestCase):
    def new_loop(self):
        return ffloop.new_event_loop()


class TestSSLProtocol(test_sslproto.SslProtoHandshakeTests):
    pass

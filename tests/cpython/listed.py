"""The tests of CPython's suite that do not pass on ffloop, each with its reason. All others must."""

import sys

PATCHES_BASE_EVENTS = "it replaces the name `socket` inside asyncio.base_events; ffloop's create_server lives elsewhere"

LISTED = {
    "TestEvents::test_create_server_multiple_hosts_ipv4": PATCHES_BASE_EVENTS,
    "TestEvents::test_create_server_multiple_hosts_ipv6": PATCHES_BASE_EVENTS,
}

if sys.version_info[:2] == (3, 12):
    # From 3.13 on a server keeps its transports, so that it can close them; ffloop's does on every version.
    ATTACH = "it calls Server._attach() without the transport, as only 3.12's own transports do"
    LISTED["TestServer::test_wait_closed_basic"] = ATTACH
    LISTED["TestServer::test_wait_closed_race"] = ATTACH

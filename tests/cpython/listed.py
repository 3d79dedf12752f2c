"""What of CPython's suite is not run on ffloop, or does not pass, each with its reason. All else must pass."""

import asyncio
import inspect
import sys

WINDOWS = "Windows only"
NO_LOOP = "it makes no event loop"
OTHER_SELECTOR = "the same tests with another selector; ffloop takes none"
SELECTOR_LOOP = "white box: it calls or sets what only asyncio's selector loop and its transports have inside"
DETACHED = "documented: a socket that was given to create_connection() is detached, and has no number to name it by"
NATIVE_SENDFILE = "it expects a loop that has no sendfile() of the system's"
NO_WATCHER = "white box: ffloop has no child watcher, on any version"
MOCK_SOCKET = "white box: its connections are mock objects, put where asyncio's loop would find the socket module"

# Modules, classes, and tests that would hang, leave the machine or hand descriptors of mock objects to libuv.
NOT_RUN = {
    "test_proactor_events": "white box: it tests the inside of asyncio's proactor loop",
    "test_protocols": NO_LOOP,
    "test_selector_events": SELECTOR_LOOP,
    "test_tools": NO_LOOP,
    "test_transports": NO_LOOP,
    "test_windows_events": WINDOWS,
    "test_windows_utils": WINDOWS,
    "test_base_events.BaseEventTests": NO_LOOP,
    "test_base_events.TestSelectorUtils": NO_LOOP,
    "test_events.TimerTests": NO_LOOP,
    "test_subprocess.MultiLoopChildWatcherTests": NO_LOOP,
    "test_tasks.CIntrospectionTests": NO_LOOP,
    "test_tasks.GenericTaskTests": NO_LOOP,
    "test_tasks.PyIntrospectionTests": NO_LOOP,
    "test_unix_events.AbstractChildWatcherTests": NO_LOOP,
    "test_unix_events.BaseChildWatcherTests": NO_LOOP,
    "test_base_events.BaseEventLoopTests.test_create_connection_happy_eyeballs": MOCK_SOCKET,
    "test_base_events.BaseEventLoopTests.test_create_connection_happy_eyeballs_ipv4_only": MOCK_SOCKET,
    "test_base_events.BaseEventLoopWithSelectorTests.test_create_datagram_endpoint_ip_addr": MOCK_SOCKET,
    "test_base_events.BaseLoopSockSendfileTests.test__sock_sendfile_native_failure": NATIVE_SENDFILE,
    "test_base_events.BaseLoopSockSendfileTests.test_sock_sendfile_no_fallback": NATIVE_SENDFILE,
    "test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data_on_slow_socket": SELECTOR_LOOP,
    "test_events.EPollEventLoopTests.test_create_server_multiple_hosts_ipv4": MOCK_SOCKET,
    "test_events.EPollEventLoopTests.test_create_server_multiple_hosts_ipv6": MOCK_SOCKET,
}
for module in "test_events", "test_sendfile", "test_sock_lowlevel":
    NOT_RUN[f"{module}.PollEventLoopTests"] = OTHER_SELECTOR
    NOT_RUN[f"{module}.SelectEventLoopTests"] = OTHER_SELECTOR
for watcher in "Fast", "Pidfd", "Safe":
    NOT_RUN[f"test_subprocess.Subprocess{watcher}WatcherTests"] = f"the same tests with another watcher; {NO_WATCHER}"
for test in (
    "bluetooth",
    "ip_addr",
    "ipv6_scope",
    "multiple_errors",
    "multiple_errors_local_addr",
    "no_inet_pton",
    "service_name",
    "timeout",
):
    NOT_RUN[f"test_base_events.BaseEventLoopWithSelectorTests.test_create_connection_{test}"] = MOCK_SOCKET

if sys.version_info < (3, 13):
    reason = "its threads count with one mock object, whose counter can miss one; newer versions count with a list"
    NOT_RUN["test_threads.ToThreadTests.test_to_thread_concurrent"] = reason

# Tests that fail. One that passes all the same is an error.
NOT_PASSING = {
    "test_base_events.BaseEventLoopTests.test_not_implemented": "it tests what BaseEventLoop leaves to its subclasses",
    "test_base_events.BaseEventLoopWithSelectorTests.test_create_connection_transport_error_closes_sock": MOCK_SOCKET,
    "test_events.EPollEventLoopTests.test_internal_fds": SELECTOR_LOOP,
    "test_sendfile.EPollEventLoopTests.test_sendfile_force_unsupported_native": "it asks BaseEventLoop, a replaced one",
    "test_sslproto.SslProtoHandshakeTests.test_connection_lost_when_busy": MOCK_SOCKET,
    "test_subprocess.GenericWatcherTests.test_create_subprocess_fails_with_inactive_watcher": NO_WATCHER,
    "test_unix_events.TestFunctional.test_add_reader_or_writer_transport_fd": DETACHED,
}


def fails(case, reason, *tests):
    NOT_PASSING.update((f"{case}.test_{test}", reason) for test in tests)


fails(
    "test_base_events.BaseEventLoopWithSelectorTests",
    SELECTOR_LOOP,
    "accept_connection_exception",
    "accept_connection_retry",
    "create_connection_happy_eyeballs_empty_exceptions",
    "create_datagram_endpoint_sock_unix",
)
fails(
    "test_subprocess.SubprocessThreadedWatcherTests",
    "white box: it replaces the loop's connect_read_pipe() or connect_write_pipe(), which a child's pipes do without",
    "pause_reading",
    "subprocess_read_pipe_cancelled",
    "subprocess_read_write_pipe_cancelled",
    "subprocess_write_pipe_cancelled",
)
fails(
    "test_subprocess.SubprocessThreadedWatcherTests",
    NO_WATCHER,
    "pid_not_reaped_before_exit_published",
    "watcher_implementation",
)
fails(
    "test_unix_events.SelectorEventLoopSignalTests",
    SELECTOR_LOOP,
    "add_signal_handler_install_error",
    "add_signal_handler_install_error3",
    "close",
    "close_on_finalizing",
    "handle_signal_cancelled_handler",
    "handle_signal_no_handler",
)
fails(
    "test_unix_events.SelectorEventLoopUnixSockSendfileTests",
    SELECTOR_LOOP,
    "sock_sendfile_blocking_error",
    "sock_sendfile_cancel1",
    "sock_sendfile_cancel2",
    "sock_sendfile_exception",
    "sock_sendfile_not_available",
    "sock_sendfile_os_error_first_call",
    "sock_sendfile_os_error_next_call",
)

NEWEST = "ffloop does, or says, what a newer asyncio does and says"
if "A UDP Socket was expected" in inspect.getsource(asyncio.BaseEventLoop.create_datagram_endpoint):
    fails("test_base_events.BaseEventLoopWithSelectorTests", NEWEST, "create_datagram_endpoint_wrong_sock")
if sys.version_info < (3, 12):
    fails("test_unix_events.SelectorEventLoopUnixSocketTests", NEWEST, "create_unix_server_path_stream_bittype")

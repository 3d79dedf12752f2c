"""asyncssh, server and client in the loop under test, with keys made here: commands, streams, sftp, forwarding."""

import asyncio
import os

import pytest
import pytest_asyncio

from . import need
from .processes import LIMIT

asyncssh = need("asyncssh")

pytestmark = [
    pytest.mark.asyncio,
    # asyncssh 2.24.1 makes a coroutine for a redirected pipe that it does not always await.
    pytest.mark.filterwarnings("ignore:coroutine 'Queue.join' was never awaited:RuntimeWarning"),
]


@pytest.fixture(scope="module")
def keys():
    return asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ecdsa-sha2-nistp256")


async def handle(process):
    """What the server does for a command."""
    command, _, argument = (process.command or "").partition(" ")
    if command == "upper":
        async for line in process.stdin:
            process.stdout.write(line.upper())
    elif command == "bytes":
        for _ in range(int(argument)):
            process.stdout.write("x" * 10_000)
            await process.stdout.drain()
    elif command == "child":
        # The child's pipes are joined to the channel by asyncssh.
        child = await asyncio.create_subprocess_shell(
            argument, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
        await process.stdout.drain()
        process.exit(await child.wait())
        return
    elif command == "sleep":
        await asyncio.sleep(3600)
    else:
        process.stderr.write(f"no such command: {command}")
        process.exit(127)
        return
    process.exit(0)


class Server(asyncssh.SSHServer):
    def connection_requested(self, *where):
        return True  # forwarding


@pytest_asyncio.fixture
async def connection(keys, tmp_path):
    host_key, user_key = keys
    (tmp_path / "authorized").write_bytes(user_key.export_public_key())
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=Server,
        server_host_keys=[host_key],
        authorized_client_keys=str(tmp_path / "authorized"),
        process_factory=handle,
        sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=str(tmp_path)),
    )
    known = asyncssh.import_known_hosts(f"* {host_key.export_public_key().decode()}")
    async with asyncio.timeout(LIMIT):
        async with asyncssh.connect(
            "127.0.0.1", server.get_port(), username="user", client_keys=[user_key], known_hosts=known
        ) as connection:
            yield connection
        server.close()
        await server.wait_closed()


async def test_a_command_answers_with_its_output_and_exit_status(connection):
    done = await connection.run("upper", input="grüße\nline\n")
    assert (done.stdout, done.stderr, done.exit_status) == ("GRÜSSE\nLINE\n", "", 0)
    done = await connection.run("none")
    assert (done.stdout, done.stderr, done.exit_status) == ("", "no such command: none", 127)


async def test_five_megabytes_come_through_one_channel_while_others_work(connection):
    async def large():
        return len((await connection.run("bytes 500")).stdout)

    async def small(n):
        return (await connection.run("upper", input=f"line {n}")).stdout

    sizes, *answers = await asyncio.gather(large(), *(small(n) for n in range(9)))
    assert sizes == 5_000_000
    assert answers == [f"LINE {n}" for n in range(9)]


async def test_a_child_process_of_the_server_is_joined_to_the_channel(connection):
    done = await connection.run("child tr a-z A-Z; echo note >&2; exit 3", input="line\n" * 20_000)
    assert (done.stdout, done.stderr, done.exit_status) == ("LINE\n" * 20_000, "note\n", 3)


async def test_a_conversation_line_by_line(connection):
    async with connection.create_process("upper") as process:
        for n in range(100):
            process.stdin.write(f"line {n}\n")
            assert await process.stdout.readline() == f"LINE {n}\n"
        process.stdin.write_eof()
        assert await process.stdout.read() == ""
    assert process.exit_status == 0


async def test_a_command_that_takes_too_long_is_given_up(connection):
    with pytest.raises(asyncssh.TimeoutError):
        await connection.run("sleep", timeout=0.05)
    assert (await connection.run("upper", input="x")).stdout == "X"


async def test_files_go_both_ways_over_sftp(connection, tmp_path):
    data = os.urandom(3_000_000)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    async with connection.start_sftp_client() as sftp:
        await sftp.put(str(source), "/there")
        assert (tmp_path / "there").read_bytes() == data
        await sftp.get("/there", str(target))
        assert target.read_bytes() == data
        assert sorted(await sftp.listdir("/")) == [".", "..", "authorized", "source", "target", "there"]
        with pytest.raises(asyncssh.SFTPNoSuchFile):
            await sftp.stat("/none")


async def test_a_port_is_forwarded(connection):
    async def echo(reader, writer):
        while data := await reader.read(100_000):
            writer.write(data)
            await writer.drain()
        writer.close()

    data = os.urandom(1_000_000)
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        forwarded = await connection.forward_local_port("127.0.0.1", 0, *server.sockets[0].getsockname())
        reader, writer = await asyncio.open_connection("127.0.0.1", forwarded.get_port())
        writer.write(data)
        writer.write_eof()
        assert await reader.read() == data
        writer.close()
        await writer.wait_closed()
        forwarded.close()
        await forwarded.wait_closed()


async def test_a_stranger_is_not_let_in(connection, keys):
    port = connection.get_extra_info("peername")[1]
    with pytest.raises(asyncssh.PermissionDenied):
        await asyncssh.connect("127.0.0.1", port, username="user", client_keys=[keys[0]], known_hosts=None)

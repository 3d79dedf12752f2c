"""aiosmtpd: its controller runs the loop in a thread; smtplib sends to it, in the clear and after STARTTLS."""

import asyncio
import smtplib
import socket

import pytest
from aiosmtpd.controller import Controller, UnixSocketController
from aiosmtpd.smtp import AuthResult

from ..conftest import FACTORIES, free_port
from .processes import LIMIT


class Inbox:
    def __init__(self):
        self.mails = []
        self.loop = None

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody@"):
            return "550 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        self.loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return "250 taken"


def authenticate(server, session, envelope, mechanism, data):
    return AuthResult(success=(data.login, data.password) == (b"user", b"secret"), handled=False)


@pytest.fixture(params=FACTORIES)
def factory(request):
    return FACTORIES[request.param]


@pytest.fixture
def inbox():
    return Inbox()


@pytest.fixture
def controller(factory, inbox, certificates):
    controller = Controller(
        inbox,
        hostname="127.0.0.1",
        port=free_port(),
        loop=factory(),
        ready_timeout=LIMIT,
        tls_context=certificates.server,
        authenticator=authenticate,
        data_size_limit=1_000_000,
    )
    controller.start()
    yield controller
    controller.stop()
    assert controller.loop.is_closed()


@pytest.fixture
def client(controller):
    with smtplib.SMTP("127.0.0.1", controller.port, timeout=LIMIT) as client:
        yield client


def mail(lines):
    return b"Subject: test\r\n\r\n" + b"".join(b"line %d\r\n" % n for n in range(lines))


def test_mails_of_several_sizes_arrive_whole(client, controller, inbox):
    for lines in (0, 1, 100, 50_000):
        assert client.sendmail("from@here", ["to@there", "and@there"], mail(lines)) == {}
        assert inbox.mails.pop() == ("from@here", ["to@there", "and@there"], mail(lines))
    assert inbox.loop is controller.loop


def test_refusals_reach_the_client(client, inbox):
    assert list(client.sendmail("from@here", ["nobody@there", "to@there"], mail(1))) == ["nobody@there"]
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        client.sendmail("from@here", ["nobody@there"], mail(1))
    with pytest.raises(smtplib.SMTPSenderRefused):
        client.sendmail("from@here", ["to@there"], mail(200_000))
    assert [recipients for _, recipients, _ in inbox.mails] == [["to@there"]]


def test_a_connection_is_upgraded_with_starttls_and_goes_on(client, certificates, inbox):
    client.ehlo()
    assert client.has_extn("starttls")
    client._host = "127.0.0.1"
    assert client.starttls(context=certificates.client)[0] == 220
    assert client.sock.version().startswith("TLS")
    with pytest.raises(smtplib.SMTPAuthenticationError):
        client.login("user", "wrong")
    client.login("user", "secret")
    client.sendmail("from@here", ["to@there"], mail(10_000))
    assert inbox.mails == [("from@here", ["to@there"], mail(10_000))]


def test_twenty_clients_at_once_and_one_that_vanishes(controller, inbox):
    clients = [smtplib.SMTP("127.0.0.1", controller.port, timeout=LIMIT) for _ in range(20)]
    with socket.create_connection(("127.0.0.1", controller.port), timeout=LIMIT) as gone:
        gone.sendall(b"EHLO here\r\nMAIL FROM:<a")
    for n, client in enumerate(clients):
        client.sendmail(f"{n}@here", ["to@there"], mail(n))
    for client in clients:
        client.quit()
    assert sorted(inbox.mails) == sorted((f"{n}@here", ["to@there"], mail(n)) for n in range(20))


def test_a_unix_socket_serves_too(factory, inbox, tmp_path):
    path = str(tmp_path / "socket")
    controller = UnixSocketController(inbox, path, loop=factory(), ready_timeout=LIMIT)
    controller.start()
    with smtplib.SMTP(timeout=LIMIT) as client:
        client.sock = socket.socket(socket.AF_UNIX)
        client.sock.settimeout(LIMIT)
        client.sock.connect(path)
        client.file = None
        assert client.getreply()[0] == 220
        client.sendmail("from@here", ["to@there"], mail(100))
    controller.stop()
    assert inbox.mails == [("from@here", ["to@there"], mail(100))]

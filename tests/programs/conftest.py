"""What several programs share: the names of the loops for command lines, and certificates."""

import ssl

import pytest

from . import need

LOOPS = {"asyncio": "asyncio:SelectorEventLoop", "ffloop": "ffloop:new_event_loop"}


@pytest.fixture(params=LOOPS, scope="module")
def factory(request):
    """A loop factory as `module:name`, for programs in a process of their own."""
    return LOOPS[request.param]


class Certificates:
    """A certificate for localhost: its files, and the contexts of both sides."""

    def __init__(self, folder):
        authority = need("trustme").CA()
        issued = authority.issue_cert("localhost", "127.0.0.1")
        self.cert, self.key, self.ca = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
        issued.cert_chain_pems[0].write_to_path(self.cert)
        issued.private_key_pem.write_to_path(self.key)
        authority.cert_pem.write_to_path(self.ca)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued.configure_cert(self.server)
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))

"""TLS: to a server that has it, with authorities that vouch for it or not."""

import pytest
from clickhouse_kit import make, opened, turn

from agentstore import errors
from agentstore.protocol import Read
from servers import authority
from servers.base import HOST, LOGIN, free_port

pytestmark = pytest.mark.anyio


@pytest.fixture
def place(private_server, tmp_path):
    """``host:port`` of a server with TLS; the files of its authority are in `tmp_path`."""
    authority.write_files(tmp_path)
    port = free_port()
    private_server(
        "clickhouse",
        "--",
        f"--tcp_port_secure={port}",
        f"--openSSL.server.certificateFile={tmp_path}/server.pem",
        f"--openSSL.server.privateKeyFile={tmp_path}/server.key",
        "--openSSL.server.verificationMode=none",
        "--openSSL.server.loadDefaultCAFile=true",
    )
    return f"{HOST}:{port}"


async def test_tls(place, tmp_path):
    for options in (f"ca_certs={tmp_path}/ca.pem", "verify=false"):
        async with opened(f"clickhouses://{LOGIN}@{place}/default?{options}") as backend:
            await backend.append([turn("s", options)])
            assert (await backend.read([Read("s")]))[0][-1].content == options


@pytest.mark.parametrize("url", ["clickhouses://{}/default", "clickhouse://{}/default"])
async def test_tls_that_does_not_fit(place, url):
    backend = make(url.format(f"{LOGIN}@{place}"))
    with pytest.raises(errors.ConfigurationError, match="TLS"):
        await backend.aopen()
    await backend.aclose()

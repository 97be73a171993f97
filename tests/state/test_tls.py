"""TLS to the store and to its Sentinels: spoken where everything is right, and refused where anything is wrong."""

import logging
import shutil
import subprocess

import pytest

from proxy.errors import StoreUnavailable
from tests import servers
from tests.state.talk import Talk, opened
from tests.state.test_line import outcome, ready

NAME = "127.0.0.1"


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder of a CA, of another one, and of what the first has signed for this address."""
    if servers.redis_binary() is None or not shutil.which("openssl"):
        pytest.skip("needs a redis-server and openssl on PATH")
    folder = tmp_path_factory.mktemp("tls")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for name in ("ca", "other"):
        own = ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt"]
        openssl("req", "-x509", *key, "-days", 2, "-subj", f"/CN={name}", *own)
    openssl("req", *key, "-subj", f"/CN={NAME}", "-keyout", folder / "key", "-out", folder / "request")
    (folder / "extensions").write_text(f"subjectAltName=IP:{NAME}")
    signed = ["-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-CAcreateserial", "-days", 2]
    openssl(
        "x509", "-req", "-in", folder / "request", *signed, "-extfile", folder / "extensions", "-out", folder / "crt"
    )
    return folder


@pytest.fixture(scope="module")
def places(files, tmp_path_factory):
    """(the server's port, its Sentinel's): both speak TLS alone."""
    tls = {"tls-cert-file": files / "crt", "tls-key-file": files / "key", "tls-ca-cert-file": files / "ca.crt"}
    tls |= {"tls-auth-clients": "no", "tls-replication": "yes", "port": "0", "bind": NAME}
    port, sentinel = servers.free_port(), servers.free_port()
    options = [part for name, value in {**tls, "tls-port": port}.items() for part in (f"--{name}", str(value))]
    trust = f"ssl_ca_certs={files / 'ca.crt'}"
    url, place = f"rediss://{NAME}:{port}?{trust}", tmp_path_factory.mktemp("r")
    server = servers.Server(servers.redis_binary(), place, url, options)
    written = tmp_path_factory.mktemp("w") / "sentinel.conf"
    lines = [f"{name} {value}" for name, value in {**tls, "tls-port": sentinel}.items()]
    written.write_text("\n".join([*lines, f"sentinel monitor talks {NAME} {port} 1"]))
    guard = servers.Sentinel(servers.redis_binary(), written, f"rediss://{NAME}:{sentinel}?{trust}")
    yield port, sentinel
    guard.stop()
    server.stop()


@pytest.mark.parametrize("url", ["rediss://{host}:{port}?{trust}", "rediss+sentinel://{host}:{sentinel}/talks?{trust}"])
async def test_tls_is_spoken_and_checked(files, places, caplog, url):
    port, sentinel = places

    def at(host=NAME, ca="ca.crt"):
        trust = f"ssl_ca_certs={files / ca}" if ca else ""
        return opened(url.format(host=host, port=port, sentinel=sentinel, trust=trust))

    async with at() as state:
        talk = Talk(state)
        assert await talk.read(await talk.turn()) == "q a"
        if "sentinel" not in url:  # which is asked once a second, by whoever waits
            run, lease = await ready(talk)
            assert await outcome(state.runs, lease, 1, [b"1" * 200_000]) is None
            assert [len(event) for event in await state.runs.events(run.id, -1)] == [1, 200_000]
    for wrong, said in (
        ({"ca": "other.crt"}, "CERTIFICATE_VERIFY_FAILED"),
        ({"ca": None}, "CERTIFICATE_VERIFY_FAILED"),
        ({"host": "localhost"}, "Hostname mismatch"),
    ):
        caplog.clear()
        async with at(**wrong) as state:
            with pytest.raises(StoreUnavailable):
                await state.ping()
        assert said in caplog.text
    plain = url.replace("rediss", "redis").partition("?")[0]
    async with opened(plain.format(host=NAME, port=port, sentinel=sentinel)) as state:
        with pytest.raises(StoreUnavailable):
            await state.ping()
    assert {record.levelno for record in caplog.records} == {logging.WARNING}

"""The command line: what is said, and with which exit code. What needs a running server is in live/test_process.py."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import proxy
from proxy import cli


def run(*argv):
    with pytest.raises(SystemExit) as done:
        cli.main(argv)
    return done.value.code


@pytest.fixture(autouse=True)
def no_options_from_outside(monkeypatch):
    monkeypatch.delenv("STATECAR_UPSTREAM", raising=False)


@pytest.mark.parametrize("argv", [(), ("--help",), ("help",), ("-h",)])
def test_without_a_command_the_commands_are_listed(argv, capsys):
    assert run(*argv) == 0
    out = capsys.readouterr().out
    for command in ("serve", "demo", "version"):
        assert f"\n  {command} " in out


@pytest.mark.parametrize("argv", [("version",), ("--version",)])
def test_the_version_is_the_packages(argv, capsys):
    assert run(*argv) == 0
    assert capsys.readouterr().out == f"statecar {proxy.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("sreve",), "no such command: sreve"),
        (("serve",), "no upstream"),
        (("serve", "--upstream", "demo", "--port", "x"), "--port='x'"),
        (("serve", "--upstream", "demo", "--store", "redis+sentinel://a/main?nonsense=1"), "an option Redis clients"),
        (("serve", "--upstream", "demo", "--store", "redis+cluster://a/1"), "a Cluster has only number 0"),
        (("serve", "--upstream", "demo", "--keys-file", "/does/not/exist"), "'/does/not/exist': No such file"),
        (("demo", "--port", "x"), "'x'"),
        (("export",), "give one of --tenant NAME, --tenant-key KEY and --tenant-id ID"),
        (("purge", "--yes"), "give one of --tenant NAME, --tenant-key KEY and --tenant-id ID"),
        (
            ("import", "--tenant=a", "--tenant-id=shared"),
            "give one of --tenant NAME, --tenant-key KEY and --tenant-id ID",
        ),
        (("export", "--tenant-id=ABC"), "--tenant-id='ABC': must be 32 hex digits, or shared"),
        (("purge", "--tenant=", "--yes"), "--tenant: must not be empty"),
        (("export", "--tenant-key="), "--tenant-key: must hold a key that is not empty"),
        (("export", "--tenant-key=@/no/such"), "--tenant-key: cannot read /no/such"),
        (("export", "--tenant=a", "--store=memory://"), "--store=memory://: is another process's"),
        (("export", "--tenant=a", "--store=x"), "--store='x'"),
        (("export", "--tenant=a", "--yes"), "--yes"),
        (("serve", "--upstreams=[{models: [a]}]"), "--upstreams: upstreams[0].replicas: must be a list"),
        (("serve", "--upstreams=[{replicas: [http://a:99999/v1]}]"), "--upstreams: upstreams[0].replicas[0]"),
        (
            ("serve", "--upstreams=[{replicas: [http://a/v1], health_path: /v1/responses}]"),
            "--upstreams: health_path='/v1/responses': There is nothing",
        ),
        (("doctor", "--upstreams=[{replicas: [http://a/v1]}]"), "one backend at a time: give --upstream"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(argv, words, capsys):
    assert run(*argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("statecar: ")
    assert err.count("\n") == 1
    assert words in err


@pytest.mark.parametrize("command", ["serve", "doctor"])
def test_a_proxy_that_cannot_be_used_is_one_line_and_exit_code_2(command, capsys, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "socks5://me:secret@proxy:1080")
    assert run(command, "--upstream", "http://upstream.invalid/v1", "--store=memory://") == 2
    told = capsys.readouterr().err
    assert "HTTP_PROXY names no proxy of http:// or https://" in told and "secret" not in told


@pytest.mark.parametrize(
    "argv",
    [
        ("serve", "--upstream=https://up.invalid/v1"),
        ("doctor", "--upstream=https://up.invalid/v1"),
        ("doctor", "--upstream=demo", "--web-search=brave", "--web-search-key=k"),
    ],
)
@pytest.mark.parametrize(("file", "why"), [("/no/such.pem", "No such file"), (__file__, "no certificate")])
def test_certificates_that_cannot_be_read_are_one_line_and_exit_code_2(argv, file, why, capsys, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", file)
    assert run(*argv, "--store=memory://") == 2
    told = capsys.readouterr().err
    assert f"SSL_CERT_FILE={file!r}" in told and why in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER=zipkin: no exporter zipkin is installed"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT: must begin with http://"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "no exporter otlp_proto_grpc is installed"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "8"}, "--traces=on: max_export_batch_size must be"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "a=b,Authorization: secret"}, "OTLP_HEADERS: must be NAME=VALUE"),
    ],
)
def test_an_exporter_of_traces_that_cannot_be_used_is_one_line_and_exit_code_2(environment, words, capsys, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run("serve", "--upstream=demo", "--traces=on") == 2
    told = capsys.readouterr().err.strip()
    assert words in told and told.count("\n") == 0 and "secret" not in told


def test_traces_without_their_extra_are_one_line_and_exit_code_2(capsys, monkeypatch):
    for name in ("spans", "traced_calls", "traced_requests", "traces"):
        monkeypatch.delitem(sys.modules, f"proxy.observe.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert run("serve", "--upstream=demo", "--traces=on") == 2
    assert "--traces=on: the extra statecar[otel] is not installed: pip install '.[otel]'" in capsys.readouterr().err


def test_every_command_has_help(capsys):
    for command, option in (
        ("serve", "--upstream URL"),
        ("demo", "--port PORT"),
        ("export", "export (--tenant NAME | --tenant-key KEY | --tenant-id ID) [options of serve] > FILE"),
        ("import", "import [--tenant NAME | --tenant-key KEY | --tenant-id ID] [options of serve] < FILE"),
        ("purge", "[--yes]"),
    ):
        assert run(command, "--help") == 0
        assert option in capsys.readouterr().out


def test_a_package_overwritten_by_proxy_py_is_told_apart(tmp_path):
    shutil.copytree(Path(proxy.__file__).parent, tmp_path / "proxy", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "proxy" / "__init__.py").write_text('"""proxy.py: Fast, Lightweight, Pluggable."""\n')
    done = subprocess.run([sys.executable, "-m", "proxy", "version"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("statecar: ")
    assert done.stderr.count("\n") == 1
    assert "virtual environment of its own" in done.stderr


def test_a_parser_that_cannot_be_imported_is_one_line():
    program = "import sys; sys.modules['httptools'] = None; import proxy.cli"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("statecar: httptools reads all HTTP here")
    assert done.stderr.count("\n") == 1


def test_all_addresses_of_a_host_share_one_port():
    sockets = cli.listen("localhost", 0)
    try:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        assert {sock.getsockname()[0] for sock in sockets} <= {"127.0.0.1", "::1"}
        for sock in sockets:
            socket.create_connection(sock.getsockname()[:2], timeout=5).close()
    finally:
        for sock in sockets:
            sock.close()


def test_a_port_in_use_and_a_host_that_is_none_are_one_line():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(cli.CannotListen, match=f"127.0.0.1, port {port}: Address already in use$"):
            cli.listen("127.0.0.1", port)
    for host in ("no.such.host.invalid", "x" * 80, "192.0.2.1"):
        with pytest.raises(cli.CannotListen, match=f"cannot listen on host {host}, port 0: .+"):
            cli.listen(host, 0)

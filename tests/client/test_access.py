"""Access control from the client: TLS, client certificates, bearer tokens, and what a refused caller is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from glimpse.client import TLS, AccessDeniedError, Client, GlimpseError, UnavailableError
from glimpse.client.addresses import is_loopback
from glimpse.client.bearer import Token, find
from glimpse.client.connection import Connection
from glimpse.v1 import classifier_pb2 as pb
from tests.client.certificates import Authority, Pair
from tests.client.conftest import Glimpse
from tests.client.scripted import Context, ScriptedServer, abort, response, stream_response

Requests = Iterator[pb.ClassifyStreamRequest]
Responses = Iterator[pb.ClassifyStreamResponse]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def mine(authority: Authority) -> Pair:
    """The client's certificate."""
    return authority.sign("client")


def credentials(pair: Pair, client_ca: Path | None = None) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(pair.key.read_bytes(), pair.certificate.read_bytes())],
        None if client_ca is None else client_ca.read_bytes(),
        require_client_auth=client_ca is not None,
    )


@pytest.fixture
def encrypted(authority: Authority) -> Iterator[ScriptedServer]:
    with ScriptedServer(credentials=credentials(authority.sign("server"))) as running:
        yield running


@pytest.fixture
def mutual(authority: Authority) -> Iterator[ScriptedServer]:
    with ScriptedServer(credentials=credentials(authority.sign("server"), authority.ca)) as running:
        yield running


def test_all_calls_go_over_tls_and_show_the_token(encrypted: ScriptedServer, authority: Authority) -> None:
    with Client(encrypted.target, tls=TLS(ca=authority.ca), token="secret") as client:  # noqa: S106 - of a test
        client.classify(b"cat")
        client.describe()
        assert client.health().serving
        assert [result.predictions[0].label for _, result in client.classify_many([("a", b"dog")])] == ["dog"]
    assert encrypted.tokens == ["Bearer secret"] * 2


def test_a_certificate_of_an_unknown_authority_is_refused_and_said_so(encrypted: ScriptedServer, mine: Pair) -> None:
    for tls in (True, TLS(ca=mine.certificate)):
        with (
            Client(encrypted.target, tls=tls) as client,
            pytest.raises(UnavailableError, match="issued by an authority that is not trusted"),
        ):
            client.classify(b"cat")


def test_the_name_in_the_certificate_counts(authority: Authority) -> None:
    pair = authority.sign("named", host="glimpse.example")
    with ScriptedServer(credentials=credentials(pair)) as server:
        with Client(server.target, tls=TLS(ca=authority.ca)) as client, pytest.raises(UnavailableError, match="name"):
            client.classify(b"cat")
        with Client(server.target, tls=TLS(ca=authority.ca, server_name="glimpse.example")) as client:
            assert client.classify(b"cat").predictions[0].label == "cat"
            assert client.health().serving


def test_the_command_line_names_the_option_that_a_failed_connection_wants(
    encrypted: ScriptedServer, scripted: ScriptedServer, mine: Pair, glimpse: Glimpse
) -> None:
    for server, options, hint in (
        (encrypted, [], "Encrypt with --tls or --tls-ca.\n"),
        (encrypted, ["--tls"], "Name its authority with --tls-ca.\n"),
        (scripted, ["--tls-ca", mine.certificate], "Leave out --tls and all options that begin with it.\n"),
    ):
        ended = glimpse("describe", "--target", server.target, *options)
        assert ended.returncode == 3
        assert ended.stderr.endswith(hint)


def test_a_server_that_wants_a_certificate_gets_the_clients(
    mutual: ScriptedServer, authority: Authority, mine: Pair
) -> None:
    with Client(mutual.target, tls=TLS(authority.ca, mine.certificate, mine.key)) as client:
        assert client.classify(b"cat").predictions[0].label == "cat"
    with (
        Client(mutual.target, tls=TLS(authority.ca)) as client,
        pytest.raises(UnavailableError, match="may require TLS"),
    ):
        client.classify(b"cat")


def test_tls_and_no_tls_that_meet_are_said_so(
    encrypted: ScriptedServer, scripted: ScriptedServer, authority: Authority
) -> None:
    with Client(encrypted.target) as client, pytest.raises(UnavailableError, match="may require TLS"):
        client.classify(b"cat")
    with (
        Client(scripted.target, tls=TLS(ca=authority.ca)) as client,
        pytest.raises(UnavailableError, match="does not speak TLS"),
    ):
        client.classify(b"cat")


def test_files_that_are_none_are_said_so_before_anything_is_called(
    authority: Authority, mine: Pair, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        Client(tls=TLS(ca=tmp_path / "gone.pem"))
    with pytest.raises(ValueError, match="does not hold a certificate in PEM format"):
        Client(tls=TLS(ca=mine.key))
    with pytest.raises(ValueError, match="does not hold a private key in PEM format"):
        Client(tls=TLS(authority.ca, mine.certificate, mine.certificate))
    with pytest.raises(ValueError, match="needs its key"):
        Client(tls=TLS(authority.ca, mine.certificate))


def test_a_token_file_is_read_again_and_a_good_token_outlives_a_bad_moment(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    """A token file is read again when it changes, and a good token outlives a bad moment of the file."""
    file = tmp_path / "token"
    file.write_text("first\n")
    with Client(scripted.target, token_file=file) as client:
        client.classify(b"cat")
        file.write_text("second-one==\n")
        client.classify(b"cat")
        file.write_text("")
        client.classify(b"cat")
        file.unlink()
        list(client.classify_many([("a", b"cat")]))
        (tmp_path / "new").write_text("third")
        (tmp_path / "new").replace(file)
        client.classify(b"cat")
    tokens = ["first", "second-one==", "second-one==", "second-one==", "third"]
    assert scripted.tokens == [f"Bearer {token}" for token in tokens]


def test_a_token_that_is_renewed_during_bulk_work_is_shown_by_the_next_stream(
    scripted: ScriptedServer, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("first")

    def stream(requests: Requests, _: Context) -> Responses:
        yield stream_response(next(requests))

    scripted.stream = stream
    with Client(scripted.target, token_file=file) as client:
        answers = client.classify_many(enumerate([b"cat", b"dog"]), in_flight=1)
        next(answers)
        file.write_text("second")
        next(answers)
    assert scripted.tokens == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("text", ["", " \n", "two words", "umläut", "-----BEGIN CERTIFICATE-----\nMII", "a=b"])
def test_what_is_no_token_is_refused_without_being_repeated(text: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(text, encoding="utf-8")
    for value, path in ((text, None), ("", file)):
        with pytest.raises(ValueError, match="does not hold a bearer token") as caught:
            Token(value=value, file=path)
        assert not text.strip() or text.strip() not in str(caught.value)


def test_the_environment_gives_a_token_where_no_argument_does(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("filed")

    env, filed = {"GLIMPSE_TOKEN": "env"}, {"GLIMPSE_TOKEN_FILE": str(file)}

    def header(token: str | None, token_file: Path | None, environment: dict[str, str]) -> str:
        found = find(token, token_file, environment)
        return "" if found is None else found.header()[0][1]

    assert header(None, None, {}) == ""
    assert header(None, None, {"GLIMPSE_TOKEN": "", "GLIMPSE_TOKEN_FILE": ""}) == ""
    assert header(None, None, env) == "Bearer env"
    assert header(None, None, filed) == "Bearer filed"
    assert header("argument", None, env) == "Bearer argument"
    assert header(None, file, env) == "Bearer filed"
    with pytest.raises(ValueError, match="Both"):
        header("argument", file, {})
    with pytest.raises(ValueError, match="Both"):
        header(None, None, env | filed)


@pytest.mark.parametrize(
    ("target", "here"),
    [
        ("localhost:50051", True),
        ("localhost", True),
        ("127.0.0.1:1", True),
        ("127.1.2.3:1", True),
        ("[::1]:1", True),
        ("::1", True),
        ("dns:///localhost:1", True),
        ("dns:localhost:1", True),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", True),
        ("ipv6:[::1]:1,[::1]:2", True),
        ("ipv6:%5B::1%5D:1", True),
        ("unix:/run/glimpse.sock", True),
        ("glimpse:50051", False),
        ("10.0.0.1:1", False),
        ("localhost.example:1", False),
        ("dns:///glimpse:1", False),
        ("dns://127.0.0.1/glimpse:1", False),
        ("dns://127.0.0.1:53/glimpse:1", False),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", False),
        ("ipv6:[2001:db8::1]:1", False),
        ("0.0.0.0:1", False),
        ("", False),
    ],
)
def test_a_token_goes_over_a_plain_connection_only_if_it_stays_on_this_machine(target: str, here: bool) -> None:  # noqa: FBT001 - a parameter of the table
    assert is_loopback(target) is here
    token = Token(value="secret")
    assert Connection(target, tls=TLS(), token=token).metadata() == ()
    allowed = Connection(target, token=token, allow_plaintext_token=True)
    assert allowed.metadata() == (("authorization", "Bearer secret"),)
    if not here:
        with pytest.raises(ValueError, match="without encryption") as caught:
            Connection(target, token=token)
        assert "secret" not in str(caught.value)


def wants_token(server: ScriptedServer, token: str) -> None:
    """Let calls in as a server with tokens does."""

    def check(context: Context) -> None:
        shown = server.tokens[-1]
        if shown is None:
            abort(context, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")
        if shown != f"Bearer {token}":
            abort(context, grpc.StatusCode.PERMISSION_DENIED, "TOKEN_REFUSED")

    def classify(request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        check(context)
        return response(request)

    def stream(requests: Requests, context: Context) -> Responses:
        check(context)
        yield from map(stream_response, requests)

    server.classify, server.stream = classify, stream


def test_who_is_not_let_in_gets_an_error_of_its_own(scripted: ScriptedServer) -> None:
    wants_token(scripted, "good")
    for token, reason in ((None, "TOKEN_MISSING"), ("bad", "TOKEN_REFUSED")):
        with Client(scripted.target, token=token) as client:
            for call in (lambda: client.classify(b"cat"), lambda: list(client.classify_many([("a", b"cat")]))):
                with pytest.raises(AccessDeniedError) as caught:
                    call()
                assert caught.value.reason == reason
                assert isinstance(caught.value, GlimpseError)
    with Client(scripted.target, token="good") as client:  # noqa: S106 - of a test
        client.classify(b"cat")


def test_the_command_line_gets_in_by_options_and_by_environment(
    mutual: ScriptedServer, authority: Authority, mine: Pair, glimpse: Glimpse, tmp_path: Path
) -> None:
    wants_token(mutual, "good")
    file = tmp_path / "token"
    file.write_text("good\n")
    options = ["--tls-ca", authority.ca, "--tls-certificate", mine.certificate, "--tls-key", mine.key]
    by_options = glimpse("classify", "-", "--target", mutual.target, *options, "--token-file", file, stdin=b"cat")
    assert by_options.returncode == 0, by_options.stderr
    environment = {
        "GLIMPSE_TARGET": mutual.target,
        "GLIMPSE_TLS_CA": str(authority.ca),
        "GLIMPSE_CLIENT_CERTIFICATE": str(mine.certificate),
        "GLIMPSE_CLIENT_KEY": str(mine.key),
    }
    by_environment = glimpse("classify", "-", stdin=b"cat", **environment | {"GLIMPSE_TOKEN": "good"})
    assert by_environment.returncode == 0, by_environment.stderr
    without_token = glimpse("classify", "-", stdin=b"cat", **environment)
    assert without_token.returncode == 9
    assert without_token.stderr.startswith("Error: as scripted [TOKEN_MISSING] Give a token with --token-file")


def test_the_command_line_says_what_is_wrong_with_its_options(glimpse: Glimpse, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("good")
    for options, said in (
        (["--target", "10.0.0.1:1", "--token-file", file], "without encryption"),
        (["--token-file", tmp_path / "gone"], "No such file"),
        (["--tls-ca", file], "in PEM format"),
        (["--tls-key", file], "needs its key"),
    ):
        ended = glimpse("describe", *options)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert said in " ".join(ended.stderr.split())


def test_a_token_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ValueError, match=r"photo\.jpg\) does not hold a bearer token: it is not a text file"):
        Token(file=file, name="token file")

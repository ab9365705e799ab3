"""Mutual TLS over real gRPC on loopback: who is let in, who is believed, and certificates that change meanwhile."""

import contextlib
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry

from chassis.callers import Callers, parse_tokens
from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from chassis.rpc import Handler, RpcServer, RpcService
from chassis.serving import rpc_server
from chassis.settings import ServiceSettings, SettingsError
from chassis.tls import Certificates
from tests.unit.chassis.authority import Authority
from tests.unit.chassis.pipe_rig import AUTH, ask, eventually, named, off, refused

TOKENS = {"edge": "", "cli": "other"}
SERVICE = RpcService(AUTH, {"GetCustomer": Handler(named("it"), frozenset({"edge", "cli"}))})


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Of this system."""
    return Authority()


@contextlib.asynccontextmanager
async def serving(folder: Path, *, bind: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """A server with the folder's certificates, at the yielded address."""
    server = RpcServer(
        services=[SERVICE],
        bind=bind,
        tokens=TOKENS,
        tracer=off(),
        registry=CollectorRegistry(),
        tls=Certificates(folder),
    )
    address = await server.start()
    try:
        yield address
    finally:
        await server.stop(0)


@contextlib.asynccontextmanager
async def asking(address: str, folder: Path | None, *, token: str = "edge") -> AsyncIterator[PipeClient]:
    """A client with the folder's certificates."""
    tls = Certificates(folder) if folder else None
    client = PipeClient(descriptor=AUTH, addresses=address, token=token, tracer=off(), tls=tls)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def test_a_caller_is_known_by_its_certificate_alone(authority: Authority, tmp_path: Path) -> None:
    """Where its name has no secret; in a pipe, and in a call beside it."""
    server, edge = authority.folder(tmp_path / "auth", "auth"), authority.folder(tmp_path / "edge", "edge")
    async with serving(server) as address, asking(address, edge) as client:
        assert (await ask(client)).plan == "edge"
        channel = client.channels[address]
        call = channel.unary_unary(f"/{AUTH.full_name}/GetCustomer")
        assert await call(b"", metadata=client.metadata, timeout=20)


@pytest.mark.parametrize("token", ["cli:other", "tasks", "edge:x"])
async def test_a_certificate_lets_nobody_be_somebody_else(authority: Authority, tmp_path: Path, token: str) -> None:
    """Not with the other one's secret, nor as a name that nobody let in; a secret that nobody asked for is no proof."""
    server, auth = authority.folder(tmp_path / "auth", "auth"), authority.folder(tmp_path / "other", "other")
    async with serving(server) as address, asking(address, auth, token=token) as client:
        channel = next(iter(client.channels.values()))
        call = channel.unary_unary(f"/{AUTH.full_name}/GetCustomer")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", metadata=client.metadata, timeout=20)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_name_with_a_secret_needs_both(authority: Authority, tmp_path: Path) -> None:
    """A stolen certificate is not enough, nor a stolen secret."""
    server, cli = authority.folder(tmp_path / "auth", "auth"), authority.folder(tmp_path / "cli", "cli")
    async with serving(server) as address:
        async with asking(address, cli, token="cli:other") as client:
            assert (await ask(client)).plan == "cli"
        async with asking(address, cli, token="cli:wrong") as client:
            assert (await refused(client, timeout_s=0.5)).code is Code.UNAVAILABLE


@pytest.mark.parametrize("shown", ["no TLS", "another authority's"])
async def test_who_shows_no_certificate_of_ours_reaches_nothing(
    authority: Authority, tmp_path: Path, shown: str
) -> None:
    """Health and reflection included: the connection itself fails."""
    server = authority.folder(tmp_path / "auth", "auth")
    other = Authority("other").folder(tmp_path / "edge", "edge", trusting=authority.certificate)
    async with serving(server) as address, asking(address, None if shown == "no TLS" else other) as client:
        assert (await refused(client, timeout_s=0.5)).code is Code.UNAVAILABLE


async def test_a_server_must_be_who_is_asked(authority: Authority, tmp_path: Path) -> None:
    """Whatever its address: auth is believed to be auth by its certificate, and another service is not."""
    edge = authority.folder(tmp_path / "edge", "edge")
    async with serving(authority.folder(tmp_path / "auth", "x", "auth")) as address:
        port = address.rpartition(":")[2]
        async with asking(f"localhost:{port}", edge) as client:
            assert (await ask(client, timeout_s=20)).plan == "edge"
    async with serving(authority.folder(tmp_path / "tasks", "tasks")) as address, asking(address, edge) as client:
        assert (await refused(client, timeout_s=0.5)).code is Code.UNAVAILABLE


def test_grpc_is_told_of_certificates_that_are_new_and_of_no_others(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told at each handshake, it let go of some that another handshake was at work with, and the process crashed."""
    folder, told = authority.folder(tmp_path / "auth", "auth"), []
    monkeypatch.setattr(grpc, "dynamic_ssl_server_credentials", lambda _, newer, **__: told.append(newer))
    Certificates(folder).for_server()
    (newer,) = told
    assert [newer(), newer()] == [None, None]
    authority.folder(folder, "auth")
    assert newer() is not None
    assert newer() is None


async def test_new_certificates_are_shown_without_a_restart(tmp_path: Path) -> None:
    """Server and client move to another authority by their files alone; the old one's no longer gets in."""
    old, new = Authority("old"), Authority("new")
    server, edge = old.folder(tmp_path / "auth", "auth"), old.folder(tmp_path / "edge", "edge")
    late = old.folder(tmp_path / "late", "edge", trusting=old.certificate + new.certificate)
    async with serving(server) as address, asking(address, edge) as client:
        assert (await ask(client)).plan == "edge"
        new.folder(server, "auth")
        assert (await ask(client)).plan == "edge"  # what is connected stays
        async with asking(address, late) as other:
            assert (await refused(other, timeout_s=0.5)).code is Code.UNAVAILABLE
        new.folder(edge, "edge")
        (replica,) = client._replicas.values()
        former = replica.channel
        assert replica._stream is not None
        replica._stream.cancel()  # as a broken connection would
        await eventually(lambda: replica.channel is not former and replica.live)
        assert (await ask(client)).plan == "edge"


async def test_half_written_certificates_are_not_taken(authority: Authority, tmp_path: Path) -> None:
    """The former ones are shown until key and certificate belong together."""
    folder = authority.folder(tmp_path / "auth", "auth")
    whole = Certificates(folder)
    former, key = whole.for_channel(), (folder / "tls.key").read_bytes()
    (folder / "tls.key").write_bytes(b"")
    assert whole.for_channel() is former
    (folder / "tls.key").unlink()
    assert whole.for_channel() is former
    (folder / "tls.key").write_bytes(key)
    assert whole.for_channel() is not former


def test_a_folder_without_certificates_is_a_wrong_setting(tmp_path: Path) -> None:
    """The process says so at its start instead of refusing everybody."""
    with pytest.raises(SettingsError, match="TOLLBRIDGE_TLS_DIR"):
        Certificates(tmp_path)
    assert Certificates.of(ServiceSettings()) is None
    with pytest.raises(SettingsError, match="TOLLBRIDGE_TLS_DIR"):
        rpc_server(ServiceSettings(tls_dir=str(tmp_path)), services=[], tracer=off(), registry=CollectorRegistry())


def caller(tokens: str, shown: str) -> str:
    return Callers(parse_tokens(tokens)).name({"authorization": shown}, None)


def test_the_hash_of_a_secret_is_enough_to_know_its_owner() -> None:
    """A service holds no other's secret; and the hash itself opens nothing."""
    hashed = sha256(b"s3cret").hexdigest()
    assert caller(f"edge:sha256:{hashed}", "edge:s3cret") == "edge"
    assert caller(f"edge:sha256:{hashed.upper()}", "Bearer edge:s3cret") == "edge"
    for wrong in (f"edge:sha256:{hashed}", f"edge:{hashed}", "edge:", "edge", "cli:s3cret", ""):
        with pytest.raises(TollbridgeError) as caught:
            caller(f"edge:sha256:{hashed}", wrong)
        assert caught.value.code is Code.PERMISSION_DENIED


def test_a_secret_changes_without_a_gap() -> None:
    """While a name is there twice both its secrets count."""
    assert {caller("edge:old,edge:new", f"edge:{secret}") for secret in ("old", "new")} == {"edge"}


def test_a_name_alone_is_a_mistake_without_certificates() -> None:
    """Else everybody who knows the name were let in."""
    assert parse_tokens("edge,cli:x", certified=True) == {"edge": "", "cli": "x"}
    with pytest.raises(SettingsError):
        parse_tokens("edge,cli:x")
    with pytest.raises(TollbridgeError):
        Callers({"edge": ""}).name({"authorization": "edge:"}, None)

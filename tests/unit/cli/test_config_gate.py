"""The gate between the operator's config file and the five services, with the services' real parsers."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import structlog

from chassis.config import ConfigError, ConfigText, ConfigWatch
from chassis.config_gate import note_path
from cli.up.config_gate import ConfigGate
from services.auth import config as auth
from services.router import config as router

RIGHT = "plans: [{id: free, requests_per_minute: 5}]\nbilling: {default_plan: free}\n"
OTHER = RIGHT.replace("5", "6")
WRONG_FOR_EDGE = OTHER + "public_url: nowhere\n"


class Gated:
    """An operator's file, the gate, and what the gate said."""

    def __init__(self, folder: Path) -> None:
        self.source, self.target = folder / "tollbridge.yaml", folder / "data" / "checked.yaml"
        self.target.parent.mkdir()
        self.said: list[str] = []
        self.environ: dict[str, str] = {}
        self.write(RIGHT)
        self.gate = ConfigGate(source=self.source, target=self.target, environ=self.environ)
        self.gate.admit()

    def write(self, text: str) -> None:
        self.source.write_text(text)

    def look_twice(self) -> None:
        self.gate.look(self.said.append)
        self.gate.look(self.said.append)

    @property
    def refused(self) -> str:
        found: str = msgspec.json.decode(note_path(self.target).read_bytes())["refused"]
        return found


@pytest.fixture
def gated(tmp_path: Path) -> Gated:
    """A gate that has let a first file pass."""
    return Gated(tmp_path)


def test_a_right_file_passes_byte_for_byte(gated: Gated) -> None:
    """The services show the hash of the operator's own file."""
    gated.write(OTHER)
    gated.look_twice()
    assert gated.target.read_text() == OTHER
    assert gated.refused == ""
    assert gated.target.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "wrong",
    [
        WRONG_FOR_EDGE,
        OTHER + "billing2: {}\n",
        OTHER.replace("default_plan: free", "default_plan: none"),
        OTHER + "models: [{id: m}]\nproviders: 5\n",
        OTHER + "tasks: {webhooks: 7}\n",
        OTHER + "public_url: '${NOBODY_SET_THIS}'\n",
        "plans: [",
    ],
)
def test_a_file_that_one_service_refuses_passes_to_none(gated: Gated, wrong: str) -> None:
    """Whichever section is wrong; the note says where in the operator's own file."""
    gated.write(wrong)
    gated.look_twice()
    assert gated.target.read_text() == RIGHT
    assert str(gated.source) in gated.refused
    gated.write(OTHER)
    gated.look_twice()
    assert (gated.target.read_text(), gated.refused) == (OTHER, "")


def test_a_file_that_is_being_written_does_not_pass(gated: Gated) -> None:
    """Emptied first and filled a moment later, it would be without its customers' plans for that moment."""
    gated.look_twice()
    gated.write("")
    gated.gate.look(gated.said.append)
    gated.write(OTHER)
    gated.gate.look(gated.said.append)
    assert gated.target.read_text() == RIGHT
    gated.gate.look(gated.said.append)
    assert gated.target.read_text() == OTHER


def test_an_emptied_file_passes_by_a_new_start_only(gated: Gated) -> None:
    """It would take all models and plans away, and is what a writer that stalls, or fails, has left."""
    gated.write("")
    gated.look_twice()
    assert (gated.target.read_text(), gated.refused) == (RIGHT, f"{gated.source}: is empty")
    gated.gate.admit()
    assert (gated.target.read_text(), gated.refused) == ("", "")


def test_a_file_behind_a_link_passes_when_the_link_is_swapped(gated: Gated) -> None:
    """As Kubernetes does with a ConfigMap: the file's own path leads through a link to a folder that is replaced."""
    folder = gated.source.parent
    for name, text in (("v1", RIGHT), ("v2", OTHER)):
        (folder / name).mkdir()
        (folder / name / "tollbridge.yaml").write_text(text)
    (folder / "data-link").symlink_to("v1")
    gated.source.unlink()
    gated.source.symlink_to("data-link/tollbridge.yaml")
    gated.look_twice()
    assert (gated.target.read_text(), gated.refused) == (RIGHT, "")
    (folder / "new-link").symlink_to("v2")
    (folder / "new-link").rename(folder / "data-link")
    gated.look_twice()
    assert (gated.target.read_text(), gated.refused) == (OTHER, "")


def test_a_check_that_breaks_refuses_the_file(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours in one service's parser is no reason to give the file to the others, or to end the gate."""

    def broken(*_: object) -> None:
        raise KeyError("canary")

    monkeypatch.setattr(router, "parse", broken)
    gated.write(OTHER)
    gated.look_twice()
    assert gated.target.read_text() == RIGHT
    assert "could not be checked: KeyError" in gated.refused
    assert "canary" not in gated.refused


def test_a_file_that_is_gone_is_told_and_changes_nothing(gated: Gated) -> None:
    """The services run on, and start again, with what passed last."""
    gated.source.unlink()
    gated.look_twice()
    assert gated.target.read_text() == RIGHT
    assert gated.refused
    with pytest.raises((ConfigError, OSError)):
        gated.gate.admit()


def test_what_could_not_be_written_is_tried_again(gated: Gated) -> None:
    """A full disk costs a change its time, not its effect."""
    gated.write(OTHER)
    gone = gated.target.parent.rename(gated.target.parent.with_name("away"))
    gated.look_twice()
    assert any("could not be written" in line for line in gated.said)
    gone.rename(gated.target.parent)
    gated.gate.look(gated.said.append)
    assert gated.target.read_text() == OTHER


async def test_two_services_take_a_changed_file_together_or_neither_does(gated: Gated) -> None:
    """What router alone finds wrong changes nothing for auth, and both say why, by the line of the operator's file."""
    applied: dict[str, list[str]] = {"auth": [], "router": []}

    def watching(name: str, parse: Callable[[ConfigText], object]) -> ConfigWatch[object]:
        async def apply(_: object, text: ConfigText) -> None:
            applied[name].append(text.hash)

        return ConfigWatch(path=gated.target, parse=parse, apply=apply, log=structlog.get_logger())

    watches = [
        watching("auth", lambda text: auth.parse(text, {})),
        watching("router", lambda text: router.parse(text, {})),
    ]
    for watch in watches:
        await watch.load_first()
    running = [asyncio.create_task(watch.run()) for watch in watches]

    async def until(true: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not true():
                gated.gate.look(gated.said.append)
                await asyncio.sleep(0.02)

    gated.write(OTHER + "models: 5\n")
    await until(lambda: all(watch.error for watch in watches))
    assert all(f"{gated.source}:3: models" in watch.error for watch in watches)
    assert [len(each) for each in applied.values()] == [1, 1]
    gated.write(OTHER)
    await until(lambda: all(len(each) == 2 for each in applied.values()))
    await until(lambda: not any(watch.error for watch in watches))
    for task in running:
        task.cancel()
    assert applied["auth"] == applied["router"]


async def test_references_are_beside_the_operators_file(gated: Gated) -> None:
    """`${file:…}` means the same as without a gate, and a changed one reaches the service that refers to it."""
    (gated.source.parent / "token.txt").write_text("one")
    gated.write("admin: {auth_token: '${file:token.txt}'}\n")
    gated.look_twice()
    from services.edge.config import parse

    seen: list[str] = []

    async def apply(config: object, _: ConfigText) -> None:
        seen.append(getattr(config, "admin_token", ""))

    watch = ConfigWatch(path=gated.target, parse=lambda text: parse(text, {}), apply=apply, log=structlog.get_logger())
    await watch.load_first()
    task = asyncio.create_task(watch.run())
    (gated.source.parent / "token.txt").write_text("two")
    async with asyncio.timeout(30):
        while seen != ["one", "two"]:  # noqa: ASYNC110  a test polls with a deadline
            await asyncio.sleep(0.02)
    task.cancel()

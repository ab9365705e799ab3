"""The config file: exact numbers, lines in errors, references, and a watch that never half-applies."""

import asyncio
import shutil
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
import structlog

from chassis.config import ConfigError, ConfigText, ConfigWatch, read, section


class Price(msgspec.Struct, forbid_unknown_fields=True):
    input: Decimal
    per_request: Decimal | None = None


class Model(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    price: Price
    slots: int = 1
    api_key: str = ""

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError("slots must be at least 1")


class Owned(msgspec.Struct, forbid_unknown_fields=True):
    models: list[Model] = []
    limits: dict[str, int] = {}


GOOD = """\
# a comment
surfaces: {prefix: "${NOT_OURS}"}
models:
  - id: a
    price: {input: 0.27}
  - id: b
    slots: "${SLOTS:-3}"
    price:
      input: 1.10
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tollbridge.yaml"
    path.write_text(GOOD)
    return path


def parse(path: Path, text: str, environ: dict[str, str] | None = None) -> Owned:
    path.write_text(text)
    return section(read(path), Owned, environ=environ or {})


def failure(path: Path, text: str, environ: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(path, text, environ)
    return caught.value


def test_money_is_exact_and_foreign_sections_are_left_alone(file: Path) -> None:
    """0.27 is 0.27, and a service needs no variable of a section it doesn't own."""
    owned = section(read(file), Owned, environ={})
    assert [model.price.input for model in owned.models] == [Decimal("0.27"), Decimal("1.10")]
    assert owned.models[1].slots == 3
    assert section(read(file), Owned, environ={"SLOTS": "7"}).models[1].slots == 7


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("models:\n  - id: a\n    price: {input: x}\n", 3, "models[0].price.input"),
        ("models:\n  - id: a\n    price:\n      input: 1\n      inptu: 2\n", 5, "models[0].price.inptu"),
        ("models:\n  - id: a\n", 2, "models[0]"),
        ("models:\n  - id: a\n    price: {input: 1}\n    slots: 0\n", 2, "models[0]"),
        ("models:\n  - id: a\n    id: b\n", 3, "models[0].id"),
        ("\nlimits:\n  a: 1\n  b: much\n", 2, "limits...."),
        ("models:\n  - id: !!python/name:os.system x\n", 2, "models[0].id"),
        ("models:\n  - [\n", 3, ""),
        ("- a\n", 1, ""),
        ("models:\n  - id: a\n    <<: {price: 1}\n", 3, "models[0]"),
        ("limits:\n  a: ${NONE}\n", 2, "limits.a"),
        ("limits:\n  a: ${file:none.txt}\n", 2, "limits.a"),
        ("limits:\n  a: ${MY-KEY}\n", 2, "limits.a"),
        ("limits:\n  a: ${}\n", 2, "limits.a"),
        (
            "a: &a [x, x]\n" + "".join(f"b{n}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)),
            0,
            "",
        ),
        ("a: &a [*a]\n", 1, "a" + "[0]" * 64),
    ],
)
def test_errors_name_file_line_and_key(file: Path, text: str, line: int, key: str) -> None:
    """An operator finds the place without searching."""
    error = failure(file, text)
    assert error.path == file
    if line:
        assert (error.line, error.key) == (line, key)
        assert f"{file}:{line}" in str(error)


def test_scalars_mean_what_they_look_like(file: Path) -> None:
    """Only true and false are booleans; times, versions and country codes stay text."""
    file.write_text("a: [no, 12:30, 1.2.3, 0.5, 1e3, .5, -7, ~, true, '1', 0x10, 1_000, 2026-11-21]\n")
    assert read(file).data["a"] == [
        *("no", "12:30", "1.2.3", Decimal("0.5"), Decimal("1e3"), Decimal("0.5"), -7, None, True, "1"),
        *("0x10", "1_000", "2026-11-21"),
    ]


def test_references_are_resolved_inside_strings(file: Path) -> None:
    """A secret may come from the environment or a file beside the config, with text around it."""
    (file.parent / "key.txt").write_text("from-file\n")
    text = 'models: [{id: "m-${NAME}-${X:-y}-$${Z}", price: {input: 1}, api_key: "${file:key.txt}"}]\n'
    model = parse(file, text, {"NAME": "n", "X": ""}).models[0]
    assert (model.id, model.api_key) == ("m-n-y-${Z}", "from-file")


def test_secrets_stay_out_of_errors(file: Path) -> None:
    """A key that was put where a number belongs isn't printed."""

    class Picky(msgspec.Struct, forbid_unknown_fields=True):
        store: str = ""

        def __post_init__(self) -> None:
            raise ValueError(f"unknown store {self.store}")

    file.write_text("store: ${KEY}\n")
    with pytest.raises(ConfigError) as caught:
        section(read(file), Picky, environ={"KEY": "hunter22"})
    assert "hunter22" not in str(caught.value)
    assert "unknown store" in str(caught.value)


def test_short_values_of_references_leave_errors_readable(file: Path) -> None:
    """A value of a few letters is no secret, and part of innocent words; of two secrets the longer is hidden whole."""

    class Picky(msgspec.Struct, forbid_unknown_fields=True):
        store: str = ""
        key: str = ""

        def __post_init__(self) -> None:
            raise ValueError(f"unknown store {self.key}")

    file.write_text("store: ${SHORT}${BEGINNING}\nkey: ${KEY}\n")
    with pytest.raises(ConfigError) as caught:
        section(read(file), Picky, environ={"SHORT": "know", "BEGINNING": "hunter22", "KEY": "hunter22-and-more"})
    assert caught.value.message == "unknown store …"


def test_a_file_too_large_or_missing_is_an_error(file: Path) -> None:
    """Reading is bounded."""
    file.write_text("#" * (1 << 20) + "\n")
    with pytest.raises(ConfigError, match="larger than"):
        read(file)
    file.unlink()
    with pytest.raises(ConfigError, match="can't be read"):
        read(file)


def write(path: Path, text: str) -> None:
    path.write_text(text)


class Running:
    """What a service does with its config."""

    def __init__(self, path: Path) -> None:
        self.applied: list[Owned] = []
        self.fail_next = False
        self.watch: ConfigWatch[Owned] = ConfigWatch(
            path=path,
            parse=lambda text: section(text, Owned, environ={}),
            apply=self.apply,
            log=structlog.get_logger(),
        )

    async def apply(self, owned: Owned, _text: ConfigText) -> None:
        if self.fail_next:
            self.fail_next = False
            raise ConnectionError("no database")
        self.applied.append(owned)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not true():  # noqa: ASYNC110  a test polls with a deadline
                await asyncio.sleep(0.01)


async def test_a_changed_file_is_applied_and_a_wrong_one_is_not(file: Path) -> None:
    """All or nothing: a mistake keeps what runs and is told; mending it goes on from there."""
    running = Running(file)
    first = await running.watch.load_first()
    first_hash = running.watch.hash
    task = asyncio.create_task(running.watch.run())
    write(file, "models: [{id: c}]\n")
    await running.until(lambda: running.watch.error != "")
    assert "models[0]" in running.watch.error
    assert (running.watch.hash, running.applied) == (first_hash, [first])
    write(file, "models: [{id: c, price: {input: 1}}]\n")
    await running.until(lambda: len(running.applied) == 2)
    task.cancel()
    assert (running.watch.error, running.applied[1].models[0].id) == ("", "c")
    assert running.watch.hash != first_hash
    assert running.watch.loaded_at_us > 0


async def test_a_rotated_secret_file_is_a_change(file: Path) -> None:
    """Files that the config refers to are watched as the config is."""
    secret = file.parent / "key.txt"
    write(secret, "one")
    write(file, "models: [{id: a, price: {input: 1}, api_key: '${file:key.txt}'}]\n")
    running = Running(file)
    await running.watch.load_first()
    task = asyncio.create_task(running.watch.run())
    write(secret, "two")
    await running.until(lambda: len(running.applied) == 2)
    task.cancel()
    assert [owned.models[0].api_key for owned in running.applied] == ["one", "two"]


async def test_a_changed_config_map_is_a_change(tmp_path: Path) -> None:
    """A kubelet writes a folder beside the old one, turns one link over to it, and takes the old one away."""
    volume = tmp_path / "etc"
    mount_config_map(volume, "one", "models: [{id: a, price: {input: 1}}]\n")
    (volume / "tollbridge.yaml").symlink_to("..data/tollbridge.yaml")
    running = Running(volume / "tollbridge.yaml")
    await running.watch.load_first()
    task = asyncio.create_task(running.watch.run())
    mount_config_map(volume, "two", "models: [{id: b, price: {input: 1}}]\n")
    shutil.rmtree(volume / "..one")
    await running.until(lambda: len(running.applied) == 2)
    task.cancel()
    assert [owned.models[0].id for owned in running.applied] == ["a", "b"]


def mount_config_map(volume: Path, version: str, text: str) -> None:
    (volume / f"..{version}").mkdir(parents=True)
    write(volume / f"..{version}" / "tollbridge.yaml", text)
    (volume / "..data_tmp").symlink_to(f"..{version}")
    (volume / "..data_tmp").rename(volume / "..data")


async def test_an_apply_that_failed_is_tried_again(file: Path) -> None:
    """A database that is away while the file changes costs no change."""
    running = Running(file)
    await running.watch.load_first()
    running.fail_next = True
    task = asyncio.create_task(running.watch.run())
    write(file, "limits: {a: 1}\n")
    await running.until(lambda: len(running.applied) == 2)
    task.cancel()
    assert running.watch.error == ""


async def test_a_wrong_first_file_is_raised(file: Path) -> None:
    """A process doesn't start on a config that it can't use."""
    write(file, "models: 5\n")
    with pytest.raises(ConfigError):
        await Running(file).watch.load_first()

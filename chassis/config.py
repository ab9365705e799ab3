"""The config file: YAML whose top-level sections are owned by services, read with exact numbers and line numbers.

The subset is YAML 1.2's core: only `true` and `false` are booleans, `12:30` is text, numbers with a point are Decimals;
tags, merge keys and a key twice are refused. References (`${NAME}`, `${NAME:-default}`, `${file:PATH}`) are resolved
only in the sections that a service owns, so it needs none of its neighbours' secrets. `$${` is a literal `${`.
A file that a gate has let pass (`chassis.config_gate`) is read as the one that the operator wrote.
"""

import asyncio
import hashlib
import os
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import yaml
from structlog.typing import FilteringBoundLogger

from chassis.config_gate import note_path, read_note
from chassis.settings import environment
from chassis.telemetry import HIDDEN, known_secrets

MAX_BYTES = 1 << 20
MAX_SECRET_BYTES = 1 << 16
MAX_VALUES = 200_000
"""Values after aliases are followed: a small file can't grow into a big one."""
MAX_DEPTH = 64
POLL_S = 0.25
SETTLING_S = 2.0
"""After a change the bytes are compared for so long: the clock of a file system may not tell two changes apart."""

T = TypeVar("T")
Key = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9]{1,30}")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]{1,30}\.[0-9]{0,30}|\.[0-9]{1,30}|[0-9]{1,30}(?=[eE]))(?:[eE][-+]?[0-9]{1,2})?")
_WORDS: dict[str, object] = {"": None, "~": None, "null": None, "true": True, "false": False}
_REFERENCE = re.compile(r"\$?\$\{(?:file:(?P<file>[^}]+)|(?P<name>[A-Za-z_]\w*)(?P<default>:-[^}]*)?)\}")
_FILE_REFERENCE = re.compile(rb"\$\{file:([^}]+)\}")
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]+)`")


class ConfigError(Exception):
    """What is wrong in the file, and where: `line` is 1-based (0: unknown), `key` a path such as `models[3].price`."""

    def __init__(self, message: str, *, path: Path, line: int = 0, key: str = "") -> None:
        where = f"{path}:{line}" if line else str(path)
        super().__init__(f"{where}: {key}: {message}" if key else f"{where}: {message}")
        self.path, self.line, self.key, self.message = path, line, key, message


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigText:
    """The file as read: nothing is resolved or checked against a schema yet."""

    path: Path
    hash: str
    """SHA-256 of the file's bytes, in hex."""
    data: dict[str, object]
    lines: Mapping[Key, int]
    """The line of each key's own name, or of a list's item."""

    def error(self, message: str, key: Key) -> ConfigError:
        """An error at that key, with the line of the nearest key that the file has: for a service's own checks."""
        known = next((key[:n] for n in range(len(key), 0, -1) if key[:n] in self.lines), ())
        return ConfigError(message, path=self.path, line=self.lines.get(known, 0), key=_dotted(key))

    def with_little_of(self, key: str, names: Collection[str]) -> "ConfigText":
        """With only these names in another service's section: whoever reads them needs none of its secrets."""
        found = self.data.get(key)
        if not isinstance(found, dict):
            return self
        kept = {name: value for name, value in found.items() if name in names}
        return replace(self, data={**self.data, key: kept})


def read(path: Path) -> ConfigText:
    """Reads and parses the file; raises ConfigError. `path` of what is returned is the operator's file."""
    written = _source(path)
    return _parse(written, _bytes(path, MAX_BYTES, owner=written))


def section(text: ConfigText, kind: type[T], *, environ: Mapping[str, str] | None = None) -> T:
    """The top-level keys that `kind` (a msgspec.Struct with forbid_unknown_fields) has as fields; others are ignored.

    Values that came from a reference stay out of the ConfigError, by the rules of the logs. A reference is text, so
    `slots: "${N}"` is turned into the number that the field wants. An optional secret is written `${NAME:-}`.
    """
    resolver = _Resolver(text, environment() if environ is None else environ)
    owned = {field.encode_name for field in msgspec.structs.fields(kind)}  # type: ignore[arg-type]  # T is a Struct
    data = {name: resolver.resolve(value, (name,)) for name, value in text.data.items() if name in owned}
    try:
        return msgspec.convert(data, kind, strict=False)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        key = _steps(where.rstrip("`"))
        if unknown := _UNKNOWN_FIELD.search(message):
            key = (*key, unknown[1])
        raise text.error(known_secrets(resolver.seen).sub(HIDDEN, message), key) from None


class ConfigWatch(Generic[T]):
    """Keeps one parsed config current: looks at the file, and those it refers to, every POLL_S. All or nothing.

    `parse` turns the text into what the service needs and raises ConfigError (it runs in a thread); `apply` makes it
    the running one. When either fails, what ran before goes on, `error` says why, and a failed `apply` is tried again.
    """

    def __init__(
        self,
        *,
        path: Path,
        parse: Callable[[ConfigText], T],
        apply: Callable[[T, ConfigText], Awaitable[None]],
        log: FilteringBoundLogger,
    ) -> None:
        self._path, self._parse, self._apply, self._log = path, parse, apply, log
        self._files = ConfigFiles(path)
        self._seen = ""
        self._error = self._refused = ""
        self.hash = ""
        """Of the running config; empty before the first."""
        self.loaded_at_us = 0

    @property
    def error(self) -> str:
        """Why the file as it is now isn't running, here or behind the gate; empty when it is."""
        return self._error or self._refused

    async def load_first(self) -> T:
        """Loads and applies once; raises ConfigError, or whatever `apply` raises."""
        self._seen = await asyncio.to_thread(self._files.look)
        return await self._load()

    async def run(self) -> None:
        """Watches until cancelled; it never fails because of the file or of `apply`."""
        while True:
            await asyncio.sleep(POLL_S)
            now = await asyncio.to_thread(self._files.look)
            self._hear(self._files.refused)
            if now == self._seen:
                continue
            self._seen = now
            try:
                await self._load()
            except ConfigError as error:
                self._refuse(str(error))
            except Exception as error:  # noqa: BLE001  apply met trouble that may pass: logged, and tried again
                self._seen = ""
                self._refuse(f"could not be applied: {type(error).__name__}")

    async def _load(self) -> T:
        text = await asyncio.to_thread(read, self._path)
        value = await asyncio.to_thread(self._parse, text)
        await self._apply(value, text)
        self.hash, self.loaded_at_us, self._error = text.hash, time.time_ns() // 1000, ""
        self._log.info("config_loaded", hash=text.hash)
        return value

    def _refuse(self, reason: str) -> None:
        if reason != self._error:
            self._log.error("config_refused", reason=reason, exc_info=True)
        self._error = reason

    def _hear(self, refused: str) -> None:
        if refused and refused != self._refused:
            self._log.error("config_refused", reason=refused, by="gate")
        self._refused = refused


class ConfigFiles:
    """A config file, its gate's note and the files it refers to, looked at often: read only when one seems changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._paths = [path, note_path(path)]
        self._stats: list[object] = []
        self._settled_s = 0.0
        self._fingerprint = ""
        self.refused = ""
        """What the gate's note says of the operator's file."""

    def look(self) -> str:
        """A text that changes when the file or one it refers to changes, appears or vanishes. Blocks."""
        stats = [_stat(path) for path in self._paths]
        if stats != self._stats:
            self._stats, self._settled_s = stats, time.monotonic() + SETTLING_S
        elif time.monotonic() >= self._settled_s:
            return self._fingerprint
        note = read_note(self._path)
        self.refused = note.refused if note else ""
        self._fingerprint, files = _fingerprint(self._path)
        self._paths = [*files, note_path(self._path)]
        return self._fingerprint


class _Resolver:
    """Replaces references below the owned keys and remembers what it put in, so that errors can hide it."""

    def __init__(self, text: ConfigText, environ: Mapping[str, str]) -> None:
        self._text, self._environ = text, environ
        self.seen: set[str] = set()

    def resolve(self, value: object, key: Key) -> object:
        if isinstance(value, dict):
            return {name: self.resolve(item, (*key, name)) for name, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item, (*key, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        if "${" in _REFERENCE.sub("", value).replace("$${", ""):
            raise self._text.error("holds a ${ that is none of ${NAME}, ${NAME:-default}, ${file:PATH}", key)
        return _REFERENCE.sub(lambda match: self._one(match, key), value)

    def _one(self, match: re.Match[str], key: Key) -> str:
        if match[0].startswith("$$"):
            return match[0][1:]
        found = self._file(match["file"], key) if match["file"] else self._environ.get(match["name"])
        if not found and match["default"] is not None:
            return match["default"][2:]
        if found is None:
            raise self._text.error(f"the environment has no {match['name']}", key)
        self.seen.add(found)
        return found

    def _file(self, name: str, key: Key) -> str:
        try:
            raw = _bytes(self._text.path.parent / name, MAX_SECRET_BYTES, owner=self._text.path)
            return raw.decode().rstrip("\r\n")
        except (ConfigError, UnicodeDecodeError):
            raise self._text.error(f"the file {name} can't be read", key) from None


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml where it is there
    """Composes nodes with every plain scalar left as text: what it means is decided here, not by YAML 1.1."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  shape is PyYAML's


class _Builder:
    """Turns the node tree into plain data, noting lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = 0
        self.lines: dict[Key, int] = {}

    def build(self, node: yaml.Node, key: Key) -> object:
        self._count += 1
        if self._count > MAX_VALUES or len(key) > MAX_DEPTH:
            raise self._error("too many values, or nested too deep", node, key)
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str":
            return str(node.value) if node.style else _scalar(node.value)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            for index, item in enumerate(node.value):
                self.lines[*key, index] = item.start_mark.line + 1
            return [self.build(item, (*key, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, key)
        raise self._error(f"the tag {node.tag} is not supported", node, key)

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, object]:
        built: dict[str, object] = {}
        for name_node, value_node in node.value:
            if not isinstance(name_node, yaml.ScalarNode):
                raise self._error("a key must be text", name_node, key)
            name = str(name_node.value)
            if name == "<<" and not name_node.style:
                raise self._error("merge keys (<<) are not supported: repeat the keys", name_node, key)
            if name in built:
                raise self._error("this key is there twice", name_node, (*key, name))
            self.lines[*key, name] = name_node.start_mark.line + 1
            built[name] = self.build(value_node, (*key, name))
        return built

    def _error(self, message: str, node: yaml.Node, key: Key) -> ConfigError:
        return ConfigError(message, path=self._path, line=node.start_mark.line + 1, key=_dotted(key))


def _parse(path: Path, raw: bytes) -> ConfigText:
    builder = _Builder(path)
    try:
        node = yaml.compose(raw.decode(), Loader=_Loader)
    except UnicodeDecodeError:
        raise ConfigError("is not UTF-8", path=path) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "is not YAML"
        raise ConfigError(str(problem), path=path, line=mark.line + 1 if mark else 0) from None
    data = {} if node is None else builder.build(node, ())
    if not isinstance(data, dict):
        raise ConfigError("must be a mapping of sections", path=path, line=1)
    return ConfigText(path=path, hash=hashlib.sha256(raw).hexdigest(), data=data, lines=builder.lines)


def _scalar(text: str) -> object:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    return Decimal(text) if _DECIMAL.fullmatch(text) else text


def _bytes(path: Path, limit: int, *, owner: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"{path.name} can't be read: {error.strerror}", path=owner) from None
    if len(raw) > limit:
        raise ConfigError(f"{path.name} is larger than {limit} bytes", path=owner)
    return raw


def _source(path: Path) -> Path:
    """The operator's file."""
    note = read_note(path)
    return Path(note.source) if note else path


def _stat(path: Path) -> object:
    try:
        found = os.stat(path)
    except OSError as error:
        return error.errno
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _fingerprint(path: Path) -> tuple[str, list[Path]]:
    """Of the bytes of the file and of those it refers to; and which files these are."""
    digest = hashlib.sha256()
    paths = [path]
    for index in range(1000):  # grows by the references of the first
        if index == len(paths):
            break
        try:
            raw = _bytes(paths[index], MAX_BYTES, owner=path)
        except ConfigError as error:
            raw = str(error).encode()
        digest.update(hashlib.sha256(raw).digest())
        if index == 0:
            folder = _source(path).parent
            paths += [folder / name.decode(errors="replace") for name in _FILE_REFERENCE.findall(raw)]
    return digest.hexdigest(), paths


def _steps(where: str) -> Key:
    return tuple(int(index) if index.isdigit() else name or index for name, index in _STEP.findall(where))


def _dotted(key: Key) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in key).lstrip(".")

"""Five stand-in services that only say they are ready: what a supervisor needs of services, and nothing else."""

import json
from pathlib import Path

from cli.services import SERVICES
from cli.up.data_dir import DataDir
from cli.up.instance_secrets import load_or_make, remember_demo_key

MAIN = """
import asyncio, ctypes, os, signal, sys
from pathlib import Path

async def main():
    name = {name!r}
    notes = Path(os.environ["STAND_IN_NOTES"])
    binds = [os.environ[f"TOLLBRIDGE_{{kind}}_BIND"] for kind in ("HTTP" if name == "edge" else "GRPC", "METRICS")]
    if (notes / f"{{name}}.refuse").exists():
        sys.exit("stand-in refuses to start")
    if (notes / f"{{name}}.untied").exists():
        ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def answer(reader, writer):
        await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\nconnection: close\\r\\n\\r\\n")
        await writer.drain()
        writer.close()

    for bind, shared in zip(binds, (True, False)):
        host, _, port = bind.rpartition(":")
        await asyncio.start_server(answer, host, int(port), reuse_port=shared)
    with open(notes / "starts", "a") as file:
        file.write(f"{{name}} {{os.getpid()}}\\n")
    await stop.wait()
    with open(notes / "stops", "a") as file:
        file.write(f"{{name}}\\n")
    if (notes / f"{{name}}.deaf").exists():
        await asyncio.sleep(60)

asyncio.run(main())
"""


def write_stand_ins(folder: Path) -> Path:
    """Writes a package `services` into `folder`, to be put before the real one; returns the folder for its notes."""
    for name in SERVICES:
        package = folder / "services" / name
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(MAIN.format(name=name))
        (package / "config.py").write_text("def parse(text, environ=None):\n    return None\n")
    (folder / "services" / "__init__.py").touch()
    notes = folder / "notes"
    notes.mkdir()
    return notes


def give_demo_key(data_dir: Path) -> None:
    """Spares the instance the making of a demo customer, for which stand-ins are too simple."""
    found = DataDir(data_dir)
    found.acquire()
    load_or_make(found, environ={})
    remember_demo_key(found, "tb_live_demo")
    found.release()


def read_ready(data_dir: Path) -> dict:
    """The content of ready.json, or {} while there is none."""
    try:
        return json.loads((data_dir / "ready.json").read_text())
    except (OSError, ValueError):
        return {}

"""What bootstrap compiles ahead, so that no start has to."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
import bootstrap
bootstrap.ROOT = Path({folder!r})
bootstrap.compile_own()
"""


def test_our_code_is_compiled_also_where_python_is_told_not_to(tmp_path):
    """A module and one below it, with PYTHONDONTWRITEBYTECODE set as container images do."""
    modules = [tmp_path / "cli" / "first.py", tmp_path / "services" / "edge" / "second.py"]
    for module in modules:
        module.parent.mkdir(parents=True)
        module.write_text("ONE = 1\n")
    script = SCRIPT.format(root=str(ROOT), folder=str(tmp_path))
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    for module in modules:
        assert list((module.parent / "__pycache__").glob(f"{module.stem}.*.pyc"))

"""Completes the SBOM of the image: `sbom.py INSTALLED_JSON DPKG_STATUS OUTPUT`, run by the Dockerfile's target `sbom`.

The first file is what cyclonedx-py says of the Python packages; this adds the interpreter and Debian's packages, which
the base image brings, and refuses to write what isn't CycloneDX. What shared libraries a wheel carries inside is not
told. The same image makes the same file.
"""

import json
import platform
import sys
from pathlib import Path
from urllib.parse import quote

Component = dict[str, object]


def debian_packages(status: str) -> list[Component]:
    """Those that `dpkg` calls installed, by name; `status` is its file of that name."""
    found: dict[str, Component] = {}
    for paragraph in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if line[:1].isalpha() and ": " in line)
        if fields.get("Status", "").split()[-1:] != ["installed"]:
            continue
        name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
        purl = f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='')}?arch={architecture}"
        found[purl] = {"bom-ref": purl, "type": "library", "name": name, "version": version, "purl": purl}
    return [found[purl] for purl in sorted(found)]


def interpreter(version: str) -> Component:
    """Python itself, which is no package of Debian's in the official image."""
    purl = f"pkg:generic/python@{version}"
    return {"bom-ref": purl, "type": "application", "name": "python", "version": version, "purl": purl}


def complete(installed: dict[str, object], added: list[Component]) -> dict[str, object]:
    """The whole document."""
    own = installed.get("components") or []
    assert isinstance(own, list)
    return {**installed, "components": [*own, *added]}


def main() -> int:
    """Writes the file, or says on stderr why it would be none."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    installed, status, output = map(Path, sys.argv[1:])
    document = json.loads(installed.read_text())
    added = [interpreter(platform.python_version()), *debian_packages(status.read_text())]
    text = json.dumps(complete(document, added), indent=1) + "\n"
    wrong = JsonStrictValidator(SchemaVersion.from_version(document["specVersion"])).validate_str(text)
    if wrong:
        print(f"not CycloneDX {document['specVersion']}: {wrong}", file=sys.stderr)
        return 1
    output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

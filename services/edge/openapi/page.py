"""`/docs`: the OpenAPI document as one page, written here. No script, and nothing that is loaded from anywhere.

Its policy forbids all but its own style, so it works in closed networks and behind strict proxies, and whatever a
config file or a dialect puts into the document is text.
"""

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Iterator
from typing import Any

Json = dict[str, Any]

STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881;--get:#0a7;--post:#36c;--put:#b70;--patch:#b70;--delete:#c33}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}
h1{margin:.5rem 0}h2{margin:2rem 0 .5rem}h3{font-size:.9rem;margin:1rem 0 .25rem}
code,pre{font:.85rem/1.45 ui-monospace,monospace}
pre{background:var(--soft);padding:.75rem;overflow-x:auto;border-radius:.4rem;margin:.25rem 0}
nav a{margin-right:1rem}
details{border:1px solid var(--line);border-radius:.4rem;margin:.3rem 0}
details>div{padding:0 .9rem .9rem}
summary{cursor:pointer;padding:.45rem .9rem;overflow-wrap:anywhere}
summary b{display:inline-block;min-width:4.2rem;font:700 .8rem ui-monospace,monospace;text-transform:uppercase}
summary span{opacity:.75;margin-left:.75rem}
.get{color:var(--get)}.post{color:var(--post)}.put{color:var(--put)}.patch{color:var(--patch)}
.delete{color:var(--delete)}
table{border-collapse:collapse;width:100%}td{border-top:1px solid var(--line);padding:.3rem .6rem .3rem 0;
vertical-align:top;overflow-wrap:anywhere}td:first-child{white-space:nowrap}
"""
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(document: Json) -> str:
    """The whole page."""
    info = document["info"]
    title = _text(f"{info['title']} API")
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body><h1>{title}</h1><p>{_prose(info['description'])}</p>",
        f'<p>Version {_text(info["version"])} · <a href="/openapi.json">openapi.json</a></p><nav>',
        *(f'<a href="#{_anchor(each["name"])}">{_text(each["name"])}</a>' for each in document["tags"]),
        '<a href="#schemas">Schemas</a></nav>',
    ]
    for tag in document["tags"]:
        parts.append(f'<h2 id="{_anchor(tag["name"])}">{_text(tag["name"])}</h2>')
        parts += [_operation(document, *each) for each in _operations(document, tag["name"])]
    parts.append('<h2 id="schemas">Schemas</h2>')
    parts += [_schema(document, name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    return "".join([*parts, "</body></html>"])


def _operations(document: Json, tag: str) -> Iterator[tuple[str, str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if tag in operation["tags"]:
                yield path, method, operation


def _operation(document: Json, path: str, method: str, operation: Json) -> str:
    head = f'<b class="{_text(method)}">{_text(method)}</b><code>{_text(path)}</code>'
    parts = [
        f'<details id="{_text(operation["operationId"])}"><summary>{head}',
        f"<span>{_text(operation['summary'])}</span></summary><div>",
        f"<p>{_prose(operation.get('description', ''))} {_access(operation)}</p>",
        f"<pre>{_text(_curl(document, path, method, operation))}</pre>",
    ]
    parts.append(_section("Parameters", (_parameter(document, each) for each in operation.get("parameters", ()))))
    for kind, media in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(_section(f"Body: {kind}", _fields(document, media["schema"])))
    parts.append(_section("Answers", (_answer(document, *each) for each in operation["responses"].items())))
    return "".join([*parts, "</div></details>"])


def _access(operation: Json) -> str:
    named = {name for scheme in operation["security"] for name in scheme}
    if "adminToken" in named:
        return "Needs the admin token."
    if {} in operation["security"] or not named:
        return "Needs no key."
    return "Needs an API key."


def _curl(document: Json, path: str, method: str, operation: Json) -> str:
    """The call, to be copied."""
    base = document["servers"][0]["url"].rstrip("/") or "$URL"
    lines = [f"curl {base}{path}"] if method == "get" else [f"curl -X {method.upper()} {base}{path}"]
    named = {name for scheme in operation["security"] for name in scheme}
    if named:
        token = "$ADMIN_TOKEN" if "adminToken" in named else "$KEY"
        lines.append(f'-H "Authorization: Bearer {token}"')
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        example = json.dumps(content["application/json"].get("example", {}), ensure_ascii=False)
        lines += ["-H 'Content-Type: application/json'", f"-d '{example}'"]
    if "multipart/form-data" in content:
        lines.append("-F file=@sound.mp3 -F model=MODEL")
    return " \\\n  ".join(lines)


def _section(title: str, rows: Iterable[str]) -> str:
    found = "".join(rows)
    return f"<h3>{_text(title)}</h3><table>{found}</table>" if found else ""


def _parameter(document: Json, found: Json) -> str:
    about = found.get("description", "")
    needed = " (required)" if found.get("required") else ""
    kind = _kind(found["schema"])
    return _row(f"{found['name']}", f"{_text(found['in'])} {kind}{needed}. {_prose(about)}")


def _fields(document: Json, schema: Json) -> Iterator[str]:
    """A row for each field of an object; one for the whole of anything else."""
    name = schema.get("$ref", "").rpartition("/")[2]
    whole = document["components"]["schemas"].get(name, schema)
    if "properties" not in whole:
        yield _row("", _kind(schema))
        return
    required = whole.get("required", ())
    for field, each in sorted(whole["properties"].items(), key=lambda pair: pair[0] not in required):
        needed = " (required)" if field in required else ""
        yield _row(field, f"{_kind(each)}{needed}")


def _answer(document: Json, status: str, answer: Json) -> str:
    name = answer.get("$ref", "").rpartition("/")[2]
    whole = document["components"]["responses"].get(name, answer)
    kinds = [
        f"{_text(kind)}: {_kind(media['schema'])}" if "schema" in media else _text(kind)
        for kind, media in whole.get("content", {}).items()
    ]
    return _row(status, f"{_prose(answer['description'])}. {' · '.join(kinds)}")


def _schema(document: Json, name: str, schema: Json) -> str:
    rows = _section("Fields", _fields(document, {"$ref": f"#/components/schemas/{name}"}))
    about = f"<p>{_prose(schema.get('description', ''))}</p>"
    summary = f"<summary><code>{_text(name)}</code></summary>"
    return f'<details id="schema-{_text(name)}">{summary}<div>{about}{rows}</div></details>'


def _kind(schema: Json) -> str:
    """A schema in a few words, with links to those that have a name."""
    if "$ref" in schema:
        name = _text(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_kind(each) for each in schema["anyOf"])
    kinds = schema.get("type", "anything")
    words = " or ".join(kinds) if isinstance(kinds, list) else kinds
    if "items" in schema:
        words = f"{_text(words)} of {_kind(schema['items'])}"
    if "enum" in schema:
        words = ", ".join(json.dumps(each) for each in schema["enum"])
    bounds = [f"{name} {schema[name]}" for name in _BOUNDS if name in schema]
    said = words if "items" in schema and "enum" not in schema else _text(words)
    return said + (f" ({_text(', '.join(bounds))})" if bounds else "")


_BOUNDS = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "format")


def _row(name: str, cell: str) -> str:
    return f"<tr><td><code>{_text(name)}</code></td><td>{cell}</td></tr>"


def _prose(text: str) -> str:
    """Text whose words between backticks are code."""
    pieces = _text(text).split("`")
    return "".join(f"<code>{piece}</code>" if place % 2 else piece for place, piece in enumerate(pieces))


def _text(text: str) -> str:
    return html.escape(str(text))


def _anchor(tag: str) -> str:
    return "".join(each if each.isalnum() else "-" for each in tag.lower())

"""The page at `/`: what is served here and how to connect. Plain HTML without scripts."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import TYPE_CHECKING, Any

import orjson

from reactor_trio.server.http import Response

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 48rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; }
h2 { margin-top: 2rem; border-bottom: 1px solid var(--line); font-size: 1.2rem; }
pre, code { font-family: ui-monospace, monospace; font-size: .9em; }
pre { background: var(--soft); border-radius: 6px; padding: .75rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0; }
tr + tr { border-top: 1px solid var(--line); }
summary { cursor: pointer; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

# The hash of the one style sheet, instead of a nonce, so that the page is a pure function.
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SECURITY = (("Content-Security-Policy", _POLICY), ("Referrer-Policy", "no-referrer"))

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>{style}</style>
</head>
<body>
<h1>{name}</h1>
<p>{description}</p>
<h2>Connect</h2>
<p>WebSocket: <code>{scheme}://{authority}/ws</code>, subprotocol <code>reactor.v1</code>{token}.
Machine-readable: <a href="/schema">/schema</a>. State: <a href="/health">/health</a>.</p>
<pre>{example}</pre>
<h2>Commands</h2>
{commands}
<h2>Messages</h2>
{messages}
<h2>Tracks</h2>
{tracks}
</body>
</html>
"""

_EXAMPLE = """from reactor_trio.client import connect

with connect("{scheme}://{authority}/ws"{token}) as client:
    print(client.welcome)"""


def index_page(
    welcome: Mapping[str, Any], authority: str, *, needs_token: bool, is_secure: bool = False
) -> Response:
    """The page for what `Contract.welcome()` returns, at the host and port that `authority` names."""
    model = welcome["model"]
    scheme = "wss" if is_secure else "ws"
    example = _EXAMPLE.format(
        scheme=scheme, authority=authority, token=', token="..."' if needs_token else ""
    )
    page = _PAGE.format(
        style=_STYLE,
        name=escape(model["name"]),
        description=escape(model.get("description") or ""),
        scheme=scheme,
        authority=escape(authority),
        token=", with a token" if needs_token else "",
        example=escape(example),
        commands=_table(welcome["events"]),
        messages=_table(welcome["messages"]),
        tracks=_tracks(welcome["tracks"]),
    )
    return Response(200, page.encode(), "text/html; charset=utf-8", _SECURITY)


def _table(specs: Iterable[Mapping[str, Any]]) -> str:
    return _rows(
        f"<td><code>{escape(spec['name'])}</code></td>"
        f"<td>{escape(spec.get('description') or '')}{_details(spec.get('schema'))}</td>"
        for spec in specs
    )


def _details(schema: object) -> str:
    if not schema:
        return ""
    text = orjson.dumps(schema, option=orjson.OPT_INDENT_2).decode()
    return f"<details><summary>schema</summary><pre>{escape(text)}</pre></details>"


def _tracks(specs: Iterable[Mapping[str, Any]]) -> str:
    return _rows(
        f"<td><code>{escape(spec['name'])}</code></td>"
        f"<td>{escape(spec['kind'])}, {escape(spec['direction'])}</td>"
        for spec in specs
    )


def _rows(cells: Iterable[str]) -> str:
    rows = [f"<tr>{cell}</tr>" for cell in cells]
    return f"<table>{''.join(rows)}</table>" if rows else "<p>None.</p>"

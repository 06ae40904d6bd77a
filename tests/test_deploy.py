"""Deployment: docs/security.md names every bound, and the files in deploy/ fit the package."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

import attrs
import pytest

from reactor_trio.cli.serve import serve
from reactor_trio.server.drain import THREAD_SECONDS
from reactor_trio.server.settings import ServerSettings
from reactor_trio.session.limits import Limits
from serving import ROOT

DEPLOY = ROOT / "deploy"
SECURITY = (ROOT / "docs" / "security.md").read_text()
NO_BOUNDS = {
    *("host", "port", "uds", "sockets", "token", "authenticate", "no_auth", "allow_origins", "allow_hosts"),
    *("ssl_context", "proxy_headers", "trusted_proxies", "root_path", "web"),
}
"""Settings for the reach of a server, which bound nothing. A new setting belongs here or in the table."""
OPTIONS = {name for option in serve.params for name in (*option.opts, *option.secondary_opts)}


def table() -> list[list[str]]:
    """The rows of the table "What is bounded by what" in docs/security.md."""
    part = SECURITY.partition("\n## What is bounded by what\n")[2].partition("\n## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1:]]


@pytest.mark.parametrize(
    "name", [field.name for kind in (Limits, ServerSettings) for field in attrs.fields(kind)]
)
def test_every_bound_is_in_the_table(name: str) -> None:
    named = " ".join(bound for _, bound, _ in table())
    option = f"--{name.replace('_', '-')}"
    is_named = f"`{option}`" in named if option in OPTIONS else f"`{name}`" in named
    assert is_named or name in NO_BOUNDS


def test_what_the_table_names_exists() -> None:
    for what, bound, beyond in table():
        assert what
        assert beyond
        for option in re.findall(r"`(--[a-z-]+)`", bound):
            assert option in OPTIONS, option


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((DEPLOY / name).read_text())
    return parser


def words_of_the_unit() -> list[str]:
    return shlex.split(unit("reactor-trio.service")["Service"]["ExecStart"])


def words_of_the_container() -> list[str]:
    entry = re.search(r"^ENTRYPOINT \[(.*)\]$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert entry is not None
    return [word.strip(' "') for word in entry[1].split(",")]


@pytest.mark.parametrize("words", [words_of_the_unit(), words_of_the_container()], ids=["unit", "container"])
def test_the_commands_are_ours(words: list[str]) -> None:
    assert words[1:4] == ["-m", "reactor_trio", "serve"]
    options = [word for word in words if word.startswith("--")]
    assert options
    assert set(options) <= OPTIONS
    serve.make_context("serve", words[4:])  # raises for an invalid value


def test_the_unit_gives_the_process_the_time_that_it_takes() -> None:
    service = unit("reactor-trio.service")["Service"]
    defaults = attrs.fields_dict(ServerSettings)
    needed = (
        defaults["drain_timeout"].default + THREAD_SECONDS + attrs.fields_dict(Limits)["hook_timeout"].default
    )
    assert float(service["TimeoutStopSec"]) > needed
    assert service["Type"] == "notify"
    assert service["TimeoutStartSec"] == "infinity"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DynamicUser", "yes"),
        ("ProtectSystem", "strict"),
        ("PrivateTmp", "yes"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("LimitCORE", "0"),
    ],
)
def test_the_unit_is_hardened_as_the_document_says(key: str, value: str) -> None:
    assert unit("reactor-trio.service")["Service"][key] == value


def test_the_image_has_a_user_without_rights_and_what_it_copies_is_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    last = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists(), name


def test_the_policy_leads_to_the_document() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "SECURITY.md").read_text())
    assert Path("docs/security.md") in map(Path, links)
    assert all((ROOT / link).exists() for link in links)

"""What the documentation promises to list, it lists; what it points at is there."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel
from typer import Typer

from node.cli import app
from node.dicomweb.settings import DicomwebClient, DicomwebSettings
from node.intake import STORAGE_CLASSES, TRANSFER_SYNTAXES
from node.rules import VARIABLES
from node.settings import (
    Delivery,
    InferenceSettings,
    NodeSettings,
    Peer,
    Route,
    TLSSettings,
    WebSettings,
)
from sr_writer.results import SOP_CLASSES, class_name
from tests.system.peers import AUTO_ROUTE

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGES = [*REPOSITORY.glob("*.md"), *DOCS.glob("*.md")]
SECTIONS = {
    "[node]": NodeSettings,
    "[inference]": InferenceSettings,
    "[web]": WebSettings,
    "[tls]": TLSSettings,
    "[dicomweb]": DicomwebSettings,
    "[[dicomweb.clients]]": DicomwebClient,
    "[delivery]": Delivery,
    "[[peers]]": Peer,
    "[[routes]]": Route,
}
TROUBLES = ("log.warning", "log.error", "log.exception", "log.critical")
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize(("heading", "section"), SECTIONS.items())
def test_every_setting_is_documented_where_it_belongs(heading: str, section: type[BaseModel]):
    text = (DOCS / "configuration.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert documented == set(section.model_fields)


@pytest.mark.parametrize("section", [NodeSettings, InferenceSettings, WebSettings, Delivery])
def test_documented_defaults_are_the_defaults(section: type[BaseModel]):
    text = (DOCS / "configuration.md").read_text()
    text = text.split("## [[peers]]")[0]
    for key, field in section.model_fields.items():
        rows = re.findall(rf"^\| `{key}` \| [^|]+ \| `([^`]*)` \|", text, re.MULTILINE)
        shown = [tomllib.loads(f"value = {row}")["value"] for row in rows]
        default = field.default
        expected = str(default) if isinstance(default, Path) else default
        assert (list(expected) if expected == () else expected) in shown, key


def test_every_attribute_of_a_rule_is_documented():
    text = (DOCS / "configuration.md").read_text()
    assert not [name for name in VARIABLES if f"`{name}`" not in text]


def test_the_conformance_statement_lists_what_is_accepted_and_sent():
    text = (DOCS / "conformance-statement.md").read_text()
    listed = {cell.strip() for line in text.splitlines() for cell in line.split("|")}
    written = [uid for classes in SOP_CLASSES.values() for uid in classes]
    expected = (*STORAGE_CLASSES, *TRANSFER_SYNTAXES, *written)
    assert not [class_name(uid) for uid in expected if str(uid) not in listed]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page: Path):
    for target in LINK.findall(page.read_text()):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path) if path else page
        assert found.exists(), target
        if anchor:
            assert anchor in _anchors(found), target


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_mentioned_exist(page: Path):
    commands = set(names(app))
    for group in app.registered_groups:
        commands |= {f"{group.name} {name}" for name in names(group.typer_instance)}
    quoted = re.findall(r"`(overread [^`]*)`|^    (?:.*-- )?(overread .*)$", page.read_text(), re.M)
    for inline, block in quoted:
        words = (inline or block).split()
        assert words[1] in commands or " ".join(words[1:3]) in commands, inline or block


def names(group: Typer) -> list[str]:
    return [info.name or info.callback.__name__ for info in group.registered_commands]


def test_every_event_that_is_logged_is_documented():
    text = (DOCS / "operations.md").read_text()
    source = "\n".join(path.read_text() for path in (REPOSITORY / "node").rglob("*.py"))
    calls = re.findall(r"log\.(?:info|warning|error|exception)\(([^)]*)", source)
    events = {event for call in calls for event in re.findall(r'"([a-z_]+\.[a-z_]+)"', call)}
    assert len(events) > 20
    assert not [event for event in sorted(events) if f"`{event}`" not in text]


def test_every_warning_and_error_says_what_to_do():
    told = []
    for path in (REPOSITORY / "node").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in TROUBLES:
                (event, *_), keywords = call.args, {one.arg for one in call.keywords}
                told.append((ast.unparse(event), keywords & {"remedy", None}))
    assert len(told) > 30
    assert not [event for event, remedy in told if not remedy]


def test_the_orthanc_script_is_the_one_that_the_system_tests_run():
    shown = (DOCS / "ae-titles.md").read_text().replace("\n    ", "\n")
    assert AUTO_ROUTE.strip() in shown

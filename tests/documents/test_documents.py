"""What the documents show is run: code, commands, requests and links."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from saga_cli.local.stack import LocalStack
from saga_cli.main import parser
from tests.engines.suites import DEVIATIONS
from tests.fakes import template

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "adr").glob("*.md")]
)
KINDS = {"python", "sh", "http", "json", "mermaid", "text", "yaml"}
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, and where it stands."""

    document: Path
    number: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}-{self.number}-{self.kind}"


def blocks(kind: str | None = None) -> list[Block]:
    found = [
        Block(document, number, match[1], match[2])
        for document in DOCUMENTS
        for number, match in enumerate(_BLOCK.finditer(document.read_text()), 1)
    ]
    return [b for b in found if kind in (None, b.kind)]


def lines(block: Block) -> Iterator[str]:
    for line in block.text.splitlines():
        command = line.partition("  #")[0].strip()
        if command:
            yield command


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with LocalStack() as running:
        yield running


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_every_block_is_of_a_kind_that_is_tested(block: Block) -> None:
    assert block.kind in KINDS


@pytest.mark.parametrize("document", sorted({b.document for b in blocks("python")}), ids=str)
def test_the_python_of_a_document_runs_from_top_to_bottom(
    document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("a_users_module")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks("python"):
        if block.document == document:
            exec(compile(block.text, str(block), "exec"), module.__dict__)


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_every_command_exists_as_it_is_typed(block: Block) -> None:
    for command in lines(block):
        words = shlex.split(command)
        assert words[0] in ("make", "saga"), f"{command}: nobody tests that"
        if words[0] == "make":
            _make_knows(words)
        else:
            parser().parse_args(words[1:])  # exits when it is wrong


def _make_knows(words: list[str]) -> None:
    dry = subprocess.run(
        ["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert dry.returncode == 0, dry.stderr


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_a_pipeline_is_yaml_and_calls_what_the_makefile_has(block: Block) -> None:
    commands = [c for c in _strings(yaml.safe_load(block.text)) if c.startswith("make ")]
    assert commands
    for command in commands:
        _make_knows(shlex.split(command))


def _strings(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _strings(child)


@pytest.mark.parametrize("block", blocks("http"), ids=str)
def test_every_request_gets_the_answer_that_is_shown(block: Block, stack: LocalStack) -> None:
    request, _, status = block.text.rstrip().rpartition("\n\n")
    head, _, body = request.partition("\n\n")
    first, *rest = head.splitlines()
    method, target = first.split(" ")
    path, _, query = target.partition("?")
    headers = dict(line.split(": ", 1) for line in rest)
    answer = stack.http(
        method,
        path,
        body=body or None,
        headers=headers,
        query=dict(part.split("=") for part in query.split("&") if part),
    )
    assert str(answer.status) == status


@pytest.mark.parametrize("block", [b for b in blocks("json") if '"saga"' in b.text], ids=str)
def test_every_start_message_starts_its_saga(block: Block, stack: LocalStack) -> None:
    message = json.loads(block.text)
    stack.send("StartQueue", block.text)
    stack.run_until_quiet()
    found = stack.http("GET", "/sagas", query={"name": message["saga"]}).body["sagas"]
    assert any(saga["state"] == "COMPLETED" for saga in found)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_every_link_into_the_project_leads_somewhere(document: Path) -> None:
    for target in _LINK.findall(document.read_text()):
        if "://" in target:
            continue
        assert (document.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("block", blocks("mermaid"), ids=str)
def test_every_drawing_is_of_a_kind_that_mermaid_knows(block: Block) -> None:
    kind = block.text.split()[0]
    assert kind in ("flowchart", "sequenceDiagram", "stateDiagram-v2")
    for pair in ("()", "[]", "{}"):
        assert block.text.count(pair[0]) == block.text.count(pair[1])
    assert block.text.count('"') % 2 == 0


def test_every_parameter_of_the_template_is_explained_as_it_is_there() -> None:
    described = template.load()
    interface = described["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    page = (ROOT / "docs" / "deploy.md").read_text()
    grouped = [name for group in interface for name in group["Parameters"]]
    assert sorted(grouped) == sorted(described["Parameters"])
    for group in interface:
        assert f"### {group['Label']['default']}\n" in page
    for name, parameter in described["Parameters"].items():
        default = f"`{parameter['Default']}`" if parameter["Default"] != "" else "none"
        assert f"| `{name}` | {default} | {' '.join(parameter['Description'].split())} |\n" in page


def test_the_known_deviations_of_the_engines_are_told() -> None:
    page = (ROOT / "docs" / "engines.md").read_text()
    for deviation in DEVIATIONS:
        assert f"| {deviation.engine} | {deviation.reason} |" in page

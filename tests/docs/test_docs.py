"""The docs say what is: links lead somewhere, files exist, the command line is the program's own, names are public."""

import ast
import re
from pathlib import Path

import pytest

import maskrcnn
from maskrcnn.cli.reference import reference
from maskrcnn.config import Config, override, preset

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for text, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), f"[{text}]({target})"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`((?:[a-z_]+/)*[a-z_0-9]+\.py)`", page.read_text()):
        assert (ROOT / name).exists() or (ROOT / "maskrcnn" / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_blocks_use_what_there_is(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "maskrcnn":
                assert node.attr in maskrcnn.__all__


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_settings_and_models_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for given in re.findall(r"--set ('[^']+'|[a-z][\w.]*=[\w.,-]+)", text):
        setting = given.strip("'")  # of a checkpoint without the `model.`
        override(Config(), [setting if setting.startswith(("model.", "train.")) else f"model.{setting}"])
    for name in re.findall(r"--model ([RX]-\d+[\w-]*)", text):
        preset(name)


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    assert [page.name for page in PAGES if page.parent.name == "docs" and f"({page.name})" not in index] == ["index.md"]


def test_the_command_line_is_the_programs_own() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == reference(), "make docs writes it anew"

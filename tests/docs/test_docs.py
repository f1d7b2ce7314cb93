"""The docs are up to date: links and files exist, names and settings are valid, figures match their source."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from PIL import Image

import maskrcnn
from maskrcnn.cli.reference import reference
from maskrcnn.config import Config, override, preset
from maskrcnn.weights.manifest import releases

ROOT = Path(__file__).parents[2]
TOP = [ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")]
PAGES = [*TOP, *sorted((ROOT / "docs").glob("*.md"))]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> list[str]:
    """The names under which a link finds the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_exist(page: Path) -> None:
    for text, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        name, _, fragment = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"[{text}]({target})"
        assert not fragment or fragment in anchors(file), f"[{text}]({target})"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_named_files_exist(page: Path) -> None:
    for name in re.findall(r"`((?:[a-z_]+/)*[a-z_0-9]+\.py)`", page.read_text()):
        assert (ROOT / name).exists() or (ROOT / "maskrcnn" / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_blocks_use_public_names(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "maskrcnn":
                assert node.attr in maskrcnn.__all__


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_named_settings_and_models_exist(page: Path) -> None:
    text = page.read_text()
    for given in re.findall(r"--set ('[^']+'|[a-z][\w.]*=[\w.,-]+)", text):
        setting = given.strip("'")  # for a checkpoint, `model.` is omitted
        override(Config(), [setting if setting.startswith(("model.", "train.")) else f"model.{setting}"])
    for name in re.findall(r"--model ([RX]-\d+[\w-]*)", text):
        preset(name)


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    assert [page.name for page in PAGES if page.parent.name == "docs" and f"({page.name})" not in index] == ["index.md"]


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    text = (ROOT / "zensical.toml").read_text()
    assert [page.name for page in PAGES if page.parent.name == "docs" and f'"docs/{page.name}"' not in text] == []


def test_the_page_of_the_python_names_has_all() -> None:
    names = re.findall(r"^::: maskrcnn\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE)
    assert sorted(names) == sorted(maskrcnn.__all__)


def test_the_command_line_reference_is_current() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == reference(), "make docs generates it"


def test_the_models_of_the_readme_have_the_published_ap() -> None:
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+:[^`]+)` \| ([\d.]*) ?\| ([\d.]*) ?\| ([\d.]*) ?\|", text, flags=re.MULTILINE)
    assert len(rows) >= 5
    for name, *written in rows:
        release = releases()[name]
        assert [float(ap) if ap else None for ap in written] == [release.box_ap, release.mask_ap, release.keypoint_ap]
    with_ap = [release for release in releases().values() if release.box_ap is not None]
    assert f"{len(with_ap)} released models load by name" in text


@pytest.mark.parametrize("file", sorted((ROOT / "docs").glob("*.jpg")), ids=named)
def test_images_are_small(file: Path) -> None:
    assert file.stat().st_size <= 300_000
    with Image.open(file) as image:
        assert image.width <= 1600


def test_only_the_package_is_distributed() -> None:
    """Wheel and sdist contain neither the docs nor their images: setuptools adds other folders only if asked to."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert tools["packages"]["find"] == {"include": ["maskrcnn*"]}
    assert tools["package-data"] == {"maskrcnn": ["py.typed"]}
    assert not (ROOT / "MANIFEST.in").exists()

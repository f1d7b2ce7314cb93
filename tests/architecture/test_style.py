"""Names, words, types and docstrings; no hidden randomness; nothing but the project in the repository."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.layers import PACKAGE, modules
from tests.architecture.sizes import MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION, warnings

ROOT = PACKAGE.parent
CATCH_EVERYTHING = {
    "training.callbacks",
    "data.workers",
}  # code of others, whose errors are reported; a thread, which passes on
BANNED_NAMES = {
    "utils",
    "util",
    "misc",
    "common",
    "helpers",
    "helper",
    "base",
    "core",
    "manager",
    "v2",
    "legacy",
    "old",
}
MODULES = modules()


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def tracked() -> list[Path]:
    """The files of the repository; without git, all files in its folders."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    folders = ("maskrcnn", "tests", "docs", "benchmarks", "examples")
    return [
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]


def texts() -> Iterator[tuple[Path, str]]:
    """Every text file of the repository, by its path from the root."""
    for path in tracked():
        if path.suffix not in (".png", ".jpg", ".npz", ".npy", ".safetensors"):
            yield path.relative_to(ROOT), path.read_text(errors="replace")


def occurrences(pattern: re.Pattern[str], *, without: frozenset[str] = frozenset()) -> list[str]:
    return [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, text in texts()
        if str(path) not in without
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_long_files_and_functions_are_warned_about(tmp_path: Path) -> None:
    def file(statements: int, lines: int) -> Path:
        path = tmp_path / "some.py"
        path.write_text("def act():\n" + "    pass\n" * statements + "\n" * (lines - statements - 1))
        return path

    assert list(warnings(file(MOST_LINES_OF_A_FUNCTION - 1, MOST_LINES_OF_A_FILE))) == []
    (long_function,) = warnings(file(MOST_LINES_OF_A_FUNCTION, MOST_LINES_OF_A_FILE))
    assert "act has 81 lines" in long_function
    (long_file,) = warnings(file(1, MOST_LINES_OF_A_FILE + 1))
    assert "601 lines" in long_file


def test_one_word_for_an_image_and_one_for_a_keypoint() -> None:
    """Apart from "joint training" and Pillow's argument `joint=`. The pattern does not find itself."""
    pattern = re.compile(r"pictur[e]|(?<![a-z])join[t]s?(?![a-z]|=| training)", re.IGNORECASE)
    found = occurrences(pattern, without=frozenset({"LICENSE"}))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("module", MODULES)
def test_every_function_has_a_return_type(module: str) -> None:
    untyped = [f for f in functions(MODULES[module]) if f.returns is None]
    if module.endswith(("_numba", "_triton")):  # the compiler types what it compiles
        untyped = [f for f in untyped if not f.decorator_list and not f.name.startswith("_")]
    bare = [f.name for f in untyped]
    assert not bare


@pytest.mark.parametrize("module", MODULES)
def test_every_file_has_a_docstring(module: str) -> None:
    text = MODULES[module].read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("module", MODULES)
def test_no_except_clause_catches_everything(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except, line {node.lineno}"
            caught = {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)}
            ends_in_raise = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            everything = bool(caught & {"Exception", "BaseException"})
            assert ends_in_raise or not everything or module in CATCH_EVERYTHING, f"line {node.lineno}"


@pytest.mark.parametrize("module", MODULES)
def test_randomness_is_passed_in(module: str) -> None:
    """`torch.rand` and similar functions get a `generator`; the global ones of NumPy and Python are not used."""
    tree = ast.parse(MODULES[module].read_text())
    forks = [node for node in ast.walk(tree) if isinstance(node, ast.With) and "fork_rng" in ast.unparse(node.items[0])]
    forked = {inner for fork in forks for inner in ast.walk(fork)}  # these restore the global generator
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or node in forked:
            continue
        name = ast.unparse(node.func)
        keywords = {keyword.arg for keyword in node.keywords}
        if re.fullmatch(r"torch\.(rand|randn|randint|randperm|multinomial|bernoulli|manual_seed)", name):
            assert "generator" in keywords, f"{name}, line {node.lineno}"
        assert not re.fullmatch(r"random\.\w+", name), f"{name}, line {node.lineno}"
        if found := re.match(r"(?:np|numpy)\.random\.(\w+)", name):
            assert found[1] in ("default_rng", "Generator", "SeedSequence", "Philox", "PCG64"), f"line {node.lineno}"


@pytest.mark.parametrize("module", MODULES)
def test_no_file_has_a_name_that_says_nothing(module: str) -> None:
    assert not set(re.split(r"[._]", module)) & BANNED_NAMES


def test_files_mention_only_the_project() -> None:
    """No hosts of package registries and no paths of a developer's machine. The patterns do not find themselves."""
    hosts = r"pyp[i]\.org|pythonhoste[d]\.org|registry\.npmj[s]|deb\.debia[n]"
    found = occurrences(re.compile(hosts + r"|/hom[e]/\w+/|/User[s]/\w+/|/wor[k]/\w+|/tm[p]/venv"))
    assert not found, "\n".join(found)


def test_no_file_is_large() -> None:
    large = [str(path.relative_to(ROOT)) for path in tracked() if path.stat().st_size > 2 * 2**20]
    assert not large

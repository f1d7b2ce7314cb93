"""Small rooms, calm names, types on every function, and a tree that speaks of the project alone."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.layers import PACKAGE, modules

ROOT = PACKAGE.parent
MAX_FILE, MAX_FUNCTION, MAX_KERNEL, MAX_COLUMNS = 400, 60, 120, 120
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
    """Files that belong to the repository; where this is no repository, everything that its .gitignore would let in."""
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


@pytest.mark.parametrize("module", MODULES)
def test_a_file_is_read_in_one_sitting(module: str) -> None:
    lines = MODULES[module].read_text().splitlines()
    assert len(lines) <= MAX_FILE


@pytest.mark.parametrize("module", MODULES)
def test_a_function_fits_on_a_screen(module: str) -> None:
    limit = MAX_KERNEL if module.endswith(("_numba", "_triton")) else MAX_FUNCTION
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(MODULES[module]) if f.end_lineno - f.lineno >= limit}
    assert not long


@pytest.mark.parametrize("module", MODULES)
def test_every_function_says_what_it_returns(module: str) -> None:
    untyped = [f for f in functions(MODULES[module]) if f.returns is None]
    if module.endswith(("_numba", "_triton")):  # the compiler types what it compiles
        untyped = [f for f in untyped if not f.decorator_list and not f.name.startswith("_")]
    bare = [f.name for f in untyped]
    assert not bare


@pytest.mark.parametrize("module", MODULES)
def test_every_file_says_what_it_is(module: str) -> None:
    text = MODULES[module].read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("module", MODULES)
def test_no_error_is_swallowed_whole(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except, line {node.lineno}"
            caught = {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)}
            ends_in_raise = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            assert ends_in_raise or not caught & {"Exception", "BaseException"}, f"line {node.lineno}"


@pytest.mark.parametrize("module", MODULES)
def test_randomness_is_passed_in(module: str) -> None:
    """No global generator: `torch.rand` and its kin need `generator=`, NumPy's and Python's are not used at all."""
    tree = ast.parse(MODULES[module].read_text())
    forks = [node for node in ast.walk(tree) if isinstance(node, ast.With) and "fork_rng" in ast.unparse(node.items[0])]
    forked = {inner for fork in forks for inner in ast.walk(fork)}  # there the global generator is put back
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
def test_rooms_have_names(module: str) -> None:
    assert not set(re.split(r"[._]", module)) & BANNED_NAMES


def test_the_tree_speaks_of_the_project_alone() -> None:
    """No package registry's host, no path of somebody's machine; the patterns do not find themselves."""
    hosts = r"pyp[i]\.org|pythonhoste[d]\.org|registry\.npmj[s]|deb\.debia[n]"
    pattern = re.compile(hosts + r"|/hom[e]/\w+/|/User[s]/\w+/|/wor[k]/\w+|/tm[p]/venv")
    found = []
    for path in tracked():
        if path.suffix in (".png", ".jpg", ".npz", ".npy", ".safetensors"):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_nothing_tracked_is_large() -> None:
    large = [str(path.relative_to(ROOT)) for path in tracked() if path.stat().st_size > 2 * 2**20]
    assert not large

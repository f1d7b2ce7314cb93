"""The floors of the package, and the imports of a file.

A room is a module or folder directly in `maskrcnn`.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[2] / "maskrcnn"

# From the ground up. A room imports from its own floor and the floors below.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "files", "device", "categories", "config", "structures", "thresholds"),
    ("ops",),
    ("images", "canvas", "inputs", "model", "accelerate"),
    ("results", "saving", "notebook", "visualize", "weights", "data"),
    ("engine",),
    ("tiling", "tracking", "video"),
    ("predict", "evaluation", "reports", "training"),
    ("demo", "doctor", "benchmark"),
    ("cli", "__init__", "__main__"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# What may be imported while a module is being imported; everything else waits until a function needs it.
EAGER = {"torch", "numpy", "PIL", "safetensors", "jaxtyping", "msgspec"}
# Rooms that must not know others of their own floor or below.
STRANGERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ops", ("config", "structures", "errors")),
    ("model", ("images", "canvas", "inputs", "accelerate")),
    ("data", ("model", "accelerate", "weights", "results", "evaluation")),
    ("canvas", ("model",)),
    ("images", ("canvas", "model")),
    ("results", ("model", "data.loader")),
)
EXPLAINED: set[tuple[str, str]] = set()  # imports that close a circle; why stands beside each
READERS_OF_MODEL_CONFIG = {"model.build", "model.mask_rcnn"}  # within `model`


class Import(NamedTuple):
    """One import in a module."""

    importer: str  # dotted name below the package: "model.rpn"
    target: str  # dotted name below the package ("ops.nms"), or the first name of a library ("torch")
    own: bool  # whether the target is in this package
    eager: bool  # whether it runs when the module is imported
    line: int


def modules() -> dict[str, Path]:
    """The path of every module by its dotted name below the package; `__init__.py` has the name of its folder."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path
    return found


def room(module: str) -> str:
    return module.split(".")[0]


def imports_of(module: str, path: Path, *, for_types: bool = False) -> list[Import]:
    """Every import in a file; those under `if TYPE_CHECKING` only if `for_types`."""
    tree = ast.parse(path.read_text())
    return list(_walk(tree, module, path.name == "__init__.py", eager=True, for_types=for_types))


def _walk(node: ast.AST, module: str, is_folder: bool, *, eager: bool, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in (*(child.body if for_types else ()), *child.orelse):
                yield from _walk(ast.Module([other], []), module, is_folder, eager=False, for_types=for_types)
        elif isinstance(child, ast.Import):
            for alias in child.names:
                yield _named(alias.name, module, eager, child.lineno)
        elif isinstance(child, ast.ImportFrom):
            yield from _from(child, module, is_folder, eager)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, module, is_folder, eager=eager and not inside, for_types=for_types)


def _named(name: str, module: str, eager: bool, line: int) -> Import:
    first, _, rest = name.partition(".")
    own = first == PACKAGE.name
    return Import(module, (rest or "__init__") if own else first, own, eager, line)


def _from(node: ast.ImportFrom, module: str, is_folder: bool, eager: bool) -> Iterator[Import]:
    if node.level == 0:
        base = _named(node.module or "", module, eager, node.lineno)
        if not base.own:
            yield base
            return
        stem = [] if base.target == "__init__" else base.target.split(".")
    else:
        here = [] if module == "__init__" else module.split(".")
        keep = len(here) + (1 if is_folder else 0) - node.level
        stem = here[: max(keep, 0)] + (node.module.split(".") if node.module else [])
    known = modules()
    for alias in node.names:
        deeper = ".".join([*stem, alias.name])
        yield Import(module, deeper if deeper in known else ".".join(stem) or "__init__", True, eager, node.lineno)

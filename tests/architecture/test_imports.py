"""Imports point down, heavy libraries are imported late, and importing the package has no side effects."""

import ast
import inspect
import json
import subprocess
import sys
from typing import Any

import pytest

import maskrcnn
from tests.architecture.layers import (
    EAGER,
    EXPLAINED,
    FLOOR_OF,
    FLOORS,
    READERS_OF_MODEL_CONFIG,
    STRANGERS,
    Import,
    imports_of,
    modules,
    room,
)

MODULES = modules()
IMPORTS = [found for module, path in MODULES.items() for found in imports_of(module, path)]
OWN = [found for found in IMPORTS if found.own]
FOREIGN = [found for found in IMPORTS if not found.own and found.target not in sys.stdlib_module_names]

PUBLIC = {
    "CheckpointError",
    "Config",
    "ConfigError",
    "DataError",
    "MaskRCNNError",
    "ModelConfig",
    "Parts",
    "Predictor",
    "Result",
    "TTA",
    "TrainConfig",
    "TrainingError",
    "convert_data",
    "evaluate",
    "load",
    "train",
}


def told(found: list[Import]) -> str:
    return "\n".join(f"{one.importer}, line {one.line}: imports {one.target}" for one in found)


def test_known_imports_are_found() -> None:
    seen = {(one.importer, one.target, one.eager) for one in IMPORTS}
    assert ("model.build", "config", True) in seen
    assert ("ops.nms", "ops.dispatch", True) in seen
    assert ("ops.nms", "ops.kernels.nms_numba", False) in seen
    assert ("cli.main", "__init__", True) in seen


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in MODULES} <= FLOOR_OF.keys()


def test_imports_point_down() -> None:
    upward = [
        one
        for one in OWN
        if FLOOR_OF[room(one.target)] > FLOOR_OF[room(one.importer)] and one.target != "__init__"  # for the version
    ]
    assert not upward, told(upward)


def test_rooms_that_must_not_know_each_other_do_not() -> None:
    wrong = [
        one
        for one in OWN
        for who, others in STRANGERS
        if room(one.importer) == who
        and any(one.target == other or one.target.startswith(f"{other}.") for other in others)
    ]
    assert not wrong, told(wrong)


def test_a_room_takes_its_own_config_and_only_the_page_the_whole() -> None:
    wrong = [
        f"{module}: {function.name}"
        for module, path in MODULES.items()
        if room(module) in ("model", "ops") and module not in READERS_OF_MODEL_CONFIG
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef)
        and any("ModelConfig" in ast.dump(argument) for argument in ast.walk(function.args))
    ]
    assert not wrong, wrong


def test_there_are_no_circles() -> None:
    """Imports inside functions and under `TYPE_CHECKING` count, but for those that their file explains."""
    below: dict[str, set[str]] = {module: set() for module in MODULES}
    for module, path in MODULES.items():
        for one in imports_of(module, path, for_types=True):
            if one.own and one.target != module and one.target in MODULES and (module, one.target) not in EXPLAINED:
                below[module].add(one.target)
    below["__init__"] = set()  # its public names are imported when they are first used
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for target in below.get(module, ()):
                visit(target, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())
    assert len(EXPLAINED) <= 2


def test_heavy_libraries_are_imported_late() -> None:
    early = [
        one
        for one in FOREIGN
        if one.eager
        and one.target not in EAGER
        and not (one.target == "numba" and room(one.importer) in ("ops", "data") and one.importer.endswith("_numba"))
        and not (
            one.target == "triton" and one.importer.startswith("ops.kernels.") and one.importer.endswith("_triton")
        )
        and not (one.target == "typer" and room(one.importer) == "cli")
    ]
    assert not early, told(early)


@pytest.mark.parametrize("library", ["numba", "triton"])
def test_only_kernel_files_import_kernel_libraries(library: str) -> None:
    wrong = [one for one in FOREIGN if one.target == library and one.eager and not one.importer.endswith(f"_{library}")]
    assert not wrong, told(wrong)
    files = [
        one
        for one in OWN
        if one.eager and one.target.endswith(f"_{library}") and not one.importer.endswith(f"_{library}")
    ]
    assert not files, told(files)


def test_the_ground_floor_does_not_import_torch() -> None:
    wrong = [
        one
        for one in FOREIGN
        if room(one.importer) in set(FLOORS[0]) - {"structures", "device"} and one.target == "torch"
    ]
    assert not wrong, told(wrong)


def test_public_names() -> None:
    assert set(maskrcnn.__all__) == PUBLIC
    assert set(dir(maskrcnn)) == PUBLIC | {"__version__"}
    for name in PUBLIC:
        assert callable(getattr(maskrcnn, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = maskrcnn.nothing


def run_python(program: str) -> Any:
    """Runs `program` in another process and parses what it prints as JSON."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_importing_has_no_side_effects() -> None:
    answer = run_python(
        """
import json, logging, os, random, sys, threading, warnings
import numpy, torch
def state():
    return [dict(os.environ), torch.get_num_threads(), torch.get_num_interop_threads(), torch.initial_seed(),
            str(torch.get_default_dtype()), torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision(),
            torch.get_rng_state()[:8].tolist(), hash(random.getstate()),
            int(numpy.random.get_state()[1][0]), len(logging.root.handlers), logging.root.level,
            threading.active_count(), len(warnings.filters), torch.multiprocessing.get_sharing_strategy()]
before, loaded = state(), set(sys.modules)
import maskrcnn
light = sorted(name for name in set(sys.modules) - loaded if not name.startswith("maskrcnn"))
for name in maskrcnn.__all__:
    getattr(maskrcnn, name)
import maskrcnn.cli.main, maskrcnn.model.build, maskrcnn.training.loop, maskrcnn.evaluation.run
late = ("numba", "triton", "hotcoco", "rich", "tensorboard", "wandb", "mlflow", "torchvision", "cv2")
heavy = [name for name in late if name in sys.modules and name not in loaded]
print(json.dumps({"unchanged": state() == before, "light": light, "heavy": heavy}))
"""
    )
    assert answer["unchanged"]
    assert answer["heavy"] == []
    assert {str(name).split(".")[0] for name in answer["light"]} <= sys.stdlib_module_names


def test_help_does_not_import_torch() -> None:
    answer = run_python(
        """
import contextlib, io, json, sys
from maskrcnn.cli.main import main
with contextlib.redirect_stdout(io.StringIO()) as text:
    try:
        main(["--help"])
    except SystemExit as end:
        code = end.code
heavy = [name for name in ("torch", "numpy", "PIL", "numba") if name in sys.modules]
print(json.dumps({"code": code, "text": text.getvalue(), "heavy": heavy}))
"""
    )
    assert answer["code"] == 0
    assert "predict" in str(answer["text"])
    assert answer["heavy"] == []


def test_public_functions_have_typed_parameters_and_docstrings() -> None:
    for verb in (maskrcnn.train, maskrcnn.evaluate, maskrcnn.load, maskrcnn.convert_data):
        assert inspect.isfunction(verb)
        parameters = inspect.signature(verb).parameters.values()
        assert all(one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in parameters)
        assert all(one.annotation is not one.empty for one in parameters)
        assert inspect.getdoc(verb)

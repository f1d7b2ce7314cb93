"""The commands of the page for the first ten minutes, run as they are written, on fewer images and for fewer steps."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?:^<!-- not run: ([^\n]+) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SMALLER = {
    "train=400, val=40": "train=8, val=4",
    "--epochs 8 ": "--epochs 1 --set model.input.min_size=64 ",
    "--save overlay,csv ": "--save overlay,csv --score-threshold 0.01 ",  # hardly trained, it is sure of nothing
}


def blocks() -> list[tuple[str, str, str]]:
    """Why it is not run or "", language and text of each block."""
    return BLOCK.findall((ROOT / "docs" / "start.md").read_text(encoding="utf-8"))


def test_only_what_needs_a_network_or_windows_is_not_run() -> None:
    reasons = [reason for reason, language, _ in blocks() if language == "powershell" or reason]
    assert len(reasons) == 3
    assert all(re.search("network|Windows|downloads", reason) for reason in reasons)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the blocks are run by bash")
def test_the_commands_lead_to_a_table(tmp_path: Path) -> None:
    commands = "".join(text for reason, language, text in blocks() if language == "bash" and not reason)
    commands = commands.replace("maskrcnn doctor\n", "", 1)  # its exit code says how this machine is
    for written, smaller in SMALLER.items():
        assert written in commands
        commands = commands.replace(written, smaller)
    program = f'python() {{ "{sys.executable}" "$@"; }}; maskrcnn() {{ "{sys.executable}" -m maskrcnn "$@"; }}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = f"set -e\n{program}\n{commands}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "predictions" / "objects.csv").open(encoding="utf-8") as file:
        assert {"image", "class", "score", "area"} <= set(csv.DictReader(file).fieldnames or ())
    assert (tmp_path / "runs" / "first" / "report.html").exists()
    assert len(list((tmp_path / "predictions").glob("val-*.png"))) == 4

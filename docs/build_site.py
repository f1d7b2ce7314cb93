"""Puts the pages, and every file that they link to, into build/docs, from which Zensical builds the site.

The tree is the repository's, so links need no change; a page outside docs/, such as a table of measurements, becomes a
page of the site. The README is the home page. `make docs` runs it in the root of the repository.
"""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "docs"
LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")


def linked(page: Path) -> set[Path]:
    """The files of the repository to which a page links."""
    targets = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    files = {(page.parent / target).resolve() for target in targets}
    return {file for file in files if file.is_file() and file.is_relative_to(ROOT)}


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    found, waiting = set(), {*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")}
    while waiting:
        file = waiting.pop()
        found.add(file)
        if file.suffix == ".md":
            waiting |= linked(file) - found
    for file in found:
        copy = OUT / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    (OUT / "README.md").rename(OUT / "index.md")


if __name__ == "__main__":
    main()

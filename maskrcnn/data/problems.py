"""What readers meet in the user's data that has to be dropped or put right, and how it is told."""

from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..errors import DataError


class Problem(NamedTuple):
    """Something in the user's data that was dropped (`kind` image, annotation, part of one) or put right (repair)."""

    kind: Literal["image", "annotation", "part", "repair"]
    file: str
    image_id: int | None
    annotation_id: int | None
    reason: str  # the same words for the same reason, so that they can be counted
    detail: str = ""

    def __str__(self) -> str:
        where = [self.file]
        if self.image_id is not None:
            where.append(f"image {self.image_id}")
        if self.annotation_id is not None:
            where.append(f"annotation {self.annotation_id}")
        return f"{', '.join(where)}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


class Report:
    """What a reader met: totals as the file has them, and every problem. Nothing is dropped without an entry here.

    With `strict` the first thing dropped is raised as a `DataError`; repairs never are.
    """

    def __init__(self, file: str, *, strict: bool = False, path: Path | None = None) -> None:
        self.file = file  # as lists of problems call it
        self.path = str(path or file)  # as an error does, which stands alone
        self.strict = strict
        self.images_in_file = 0
        self.annotations_in_file = 0
        self.lost_with_image = 0  # annotations whose image was dropped
        self.problems: list[Problem] = []

    def __getstate__(self) -> dict[str, Any]:
        """Without the problems for a process that is being spawned, which has no use for them."""
        return self.__dict__ | ({"problems": []} if get_spawning_popen() else {})

    def add(
        self,
        kind: Literal["image", "annotation", "part", "repair"],
        reason: str,
        *,
        image_id: int | None = None,
        annotation_id: int | None = None,
        detail: str = "",
    ) -> None:
        """Notes a problem. Raises `DataError` if the report is strict and something is lost."""
        problem = Problem(kind, self.file, image_id, annotation_id, reason, detail)
        if self.strict and kind != "repair":
            raise DataError(str(problem._replace(file=self.path)))
        self.problems.append(problem)

    def count(self, kind: str) -> int:
        """How many problems of a kind there are."""
        return sum(problem.kind == kind for problem in self.problems)

    def reasons(self) -> Counter[tuple[str, str]]:
        """How often each (kind, reason) occurred."""
        return Counter((problem.kind, problem.reason) for problem in self.problems)

    def lines(self, listed: int) -> Iterator[str]:
        """What was dropped and what was repaired, by reason, the first `listed` problems of each written out."""
        yield from problem_lines("dropped", [p for p in self.problems if p.kind != "repair"], listed)
        if self.lost_with_image:
            yield f"  {self.lost_with_image:>6}  annotations lost with their image"
        yield from problem_lines("repaired", [p for p in self.problems if p.kind == "repair"], listed)

    def summary(self) -> str:
        """One sentence on what was lost and what was put right; empty where there is nothing to tell."""
        told = [
            f"{count} {word}{'s' if count != 1 else ''}"
            for kind, word in (("image", "image"), ("annotation", "annotation"), ("part", "polygon"))
            if (count := self.count(kind))
        ]
        lost = f"{' and '.join(told)} dropped" if told else ""
        if self.lost_with_image:
            lost += f", {self.lost_with_image} annotations lost with their image"
        repairs = self.count("repair")
        put_right = f"{repairs} repaired" if repairs else ""
        return f"{self.file}: {'; '.join(filter(None, (lost, put_right)))}" if lost or put_right else ""


def problem_lines(title: str, problems: Sequence[Problem], listed: int) -> Iterator[str]:
    """Each reason with its count, and the first few of it. Nothing where there are no problems."""
    if not problems:
        return
    yield f"{title:<12} {len(problems)}"
    by_reason: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        by_reason.setdefault((problem.kind, problem.reason), []).append(problem)
    for (_, reason), group in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        yield f"  {len(group):>6}  {reason}"
        yield from (f"            {problem}" for problem in group[:listed])
        if len(group) > listed:
            yield f"            ... and {len(group) - listed} more"

"""What readers find wrong with the user's data: every problem, dropped or repaired, and the report of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from ..errors import DataError

Kind: TypeAlias = Literal["image", "annotation", "mask", "part", "repair"]
Id: TypeAlias = int | str | None


class Problem(NamedTuple):
    """Something in the user's data that was dropped or repaired. `kind` is what was dropped: an image, an annotation,
    its mask alone, or a part of its mask.
    """

    kind: Kind
    file: str
    image_id: Id
    annotation_id: int | None
    reason: str  # the same words for the same reason, so that problems can be counted
    detail: str = ""

    def __str__(self) -> str:
        ids = {"image": self.image_id, "annotation": self.annotation_id}
        where = [self.file, *(f"{what} {id}" for what, id in ids.items() if id is not None)]
        return f"{', '.join(where)}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


class Contradiction(NamedTuple):
    """What most records of a file say against each other, in one sentence with its likely cause."""

    sentence: str
    unusable: bool  # it could not be decided who is right, so the data must not be used


@dataclass
class Report:
    """The totals of a file and every problem in it. Nothing is dropped without an entry here.

    With `strict` the first thing that would be dropped raises a `DataError`; a repair never does.
    """

    path: str | Path
    strict: bool = False
    images_in_file: int = 0
    annotations_in_file: int = 0
    lost_with_image: int = 0  # annotations whose image was dropped
    problems: list[Problem] = field(default_factory=list)
    contradictions: list[Contradiction] = field(default_factory=list)

    @property
    def file(self) -> str:
        """The file's name, for lists of problems. An error, which stands alone, has its path."""
        return Path(self.path).name

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the problems out if a process is being spawned: workers have no use for them."""
        return self.__dict__ | ({"problems": []} if get_spawning_popen() else {})

    def add(
        self, kind: Kind, reason: str, detail: str = "", image_id: Id = None, annotation_id: int | None = None
    ) -> None:
        """Adds a problem. Raises `DataError` if the report is strict and something is lost."""
        problem = Problem(kind, self.file, image_id, annotation_id, reason, detail)
        if self.strict and kind != "repair":
            raise DataError(str(problem._replace(file=str(self.path))))
        self.problems.append(problem)

    def contradict(self, sentence: str, *, unusable: bool = False) -> None:
        """Adds a contradiction. Raises `DataError` if the report is strict and it cannot be mended."""
        if self.strict and unusable:
            raise DataError(f"{self.path}: {sentence}")
        self.contradictions.append(Contradiction(sentence, unusable))

    @property
    def unusable(self) -> str | None:
        """Why the data must not be used at all, if it must not."""
        return next((sentence for sentence, unusable in self.contradictions if unusable), None)

    def count(self, kind: Kind) -> int:
        """How many problems of a kind there are."""
        return sum(problem.kind == kind for problem in self.problems)

    def lines(self, listed: int) -> Iterator[str]:
        """What contradicts itself, what was dropped and what was repaired, by reason, with the first `listed` problems
        of each.
        """
        yield from (f"contradiction: {sentence}" for sentence, _ in self.contradictions)
        yield from problem_lines("dropped", [p for p in self.problems if p.kind != "repair"], listed)
        if self.lost_with_image:
            yield f"  {self.lost_with_image:>6}  annotations lost with their image"
        yield from problem_lines("repaired", [p for p in self.problems if p.kind == "repair"], listed)

    def summary(self) -> str:
        """One sentence on what was dropped and repaired; empty if nothing was."""
        words: dict[str, Kind] = {"image": "image", "annotation": "annotation", "mask": "mask", "polygon": "part"}
        counts = {word: self.count(kind) for word, kind in words.items()}
        parts = [f"{count} {word}{'s' if count > 1 else ''}" for word, count in counts.items() if count]
        lost = f"{' and '.join(parts)} dropped" if parts else ""
        if self.lost_with_image:
            lost += f", {self.lost_with_image} annotations lost with their image"
        repairs = self.count("repair")
        said = (lost, f"{repairs} repaired" if repairs else "", *(sentence for sentence, _ in self.contradictions))
        sentence = "; ".join(filter(None, said))
        return f"{self.file}: {sentence}" if sentence else ""


def problem_lines(title: str, problems: Sequence[Problem], listed: int) -> Iterator[str]:
    """Each reason with its count and its first `listed` problems. No lines if there are no problems."""
    if not problems:
        return
    yield f"{title:<12} {len(problems)}"
    by_reason: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        by_reason.setdefault((problem.kind, problem.reason), []).append(problem)
    for group in sorted(by_reason.values(), key=len, reverse=True):
        yield f"  {len(group):>6}  {group[0].reason}"
        yield from (f"            {problem}" for problem in group[:listed])
        if len(group) > listed:
            yield f"            ... and {len(group) - listed} more"

"""Names of images for formats whose annotation files have the name of the image, but for the suffix."""

from collections.abc import Collection
from pathlib import PurePosixPath

from ..dataset import Record
from ..validate import wrong_name


class Names:
    """Gives every image of a split a name of its own: no two differ in the suffix only, or in the case of letters."""

    def __init__(self) -> None:
        self._taken: set[tuple[str, str]] = set()

    def of(self, record: Record, split: str = "all", *, avoid: Collection[str] = ()) -> PurePosixPath:
        """The name that the image's source states, else that of its file, without folders that are called as one of
        `avoid`; with a number if another image has it.
        """
        stated = record.name if record.name and wrong_name(record.name) is None else record.path.name
        path = PurePosixPath(stated.replace("\\", "/"))
        path = PurePosixPath(*(part for part in path.parent.parts if part not in avoid), path.name)
        chosen, number = path, 1
        while (key := (split, chosen.with_suffix("").as_posix().casefold())) in self._taken:
            number += 1
            chosen = path.with_stem(f"{path.stem}-{number}")
        self._taken.add(key)
        return chosen

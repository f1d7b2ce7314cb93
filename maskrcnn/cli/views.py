"""The options `--tta` and `--tta-views` of predict and evaluate."""

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..config import TTA

TtaOption = Annotated[bool, typer.Option("--tta", help="Test-time augmentation: several scales, each also mirrored.")]
ViewsOption = Annotated[
    str | None,
    typer.Option(
        "--tta-views",
        metavar="VIEWS",
        help="Scales and flip, such as 0.75,1,1.25,flip. Default: 0.5 to 1.5 by 0.125, flip.",
    ),
]


def parse_views(tta: bool, text: str | None) -> "TTA | bool":
    """The views that the two options select; the second implies the first. Raises `ConfigError` for other words."""
    if text is None:
        return tta
    from ..config import TTA

    words = [word.strip() for word in text.split(",")]
    try:
        return TTA(tuple(float(word) for word in words if word != "flip"), "flip" in words)
    except ValueError as error:
        raise ConfigError(f"--tta-views must be scales and flip, such as 0.75,1,1.25,flip, not {text!r}") from error

"""A verb's options are the arguments of the function that it calls: same names, defaults and explanations.

So `help(maskrcnn.train)` and `maskrcnn train --help` cannot differ, and an argument is written once.
"""

import inspect
import re
import typing
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any

import typer

Verb = Callable[..., None]


def options_of(function: Callable[..., Any], *, without: Collection[str] = ()) -> Callable[[Verb], Verb]:
    """Gives a verb that takes `**arguments` the parameters of `function`.

    The verb declares the options itself that are spelled otherwise than the parameters in `without`.
    """

    def decorate(verb: Verb) -> Verb:
        helps = argument_help(function)
        found = [p for name, p in inspect.signature(function).parameters.items() if name not in without]
        parameters = [p.replace(annotation=_described(p, helps[p.name]), kind=p.KEYWORD_ONLY) for p in found]
        parameters += [p for p in inspect.signature(verb).parameters.values() if p.kind is p.KEYWORD_ONLY]
        verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return verb

    return decorate


def argument_help(function: Callable[..., Any]) -> dict[str, str]:
    """The line of each argument below "Args:" in a docstring."""
    _, _, text = (inspect.getdoc(function) or "").partition("Args:\n")
    return dict(re.findall(r"^    (\w+): (.+)$", text, re.MULTILINE))


def _described(parameter: inspect.Parameter, text: str) -> Any:
    """The type that a word of the command line gets, and typer's description of the option."""
    kinds = typing.get_args(parameter.annotation) or (parameter.annotation,)
    kind = next((kind for kind in (Path, str) if kind in kinds), kinds[0])  # Python takes str | Path, say
    if parameter.default is parameter.empty:
        return Annotated[kind, typer.Argument(help=text)]
    option = typer.Option("--" + parameter.name.replace("_", "-"), help=text)
    return Annotated[kind | None if parameter.default is None else kind, option]

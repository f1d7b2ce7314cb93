"""Folders that are also the function of their name: `maskrcnn.train` holds the rooms, `maskrcnn.train(...)` trains."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class Verb(ModuleType):
    """A package whose call is the function of its own name in its module `room`."""

    room: str

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        verb = self.__name__.rpartition(".")[2]
        return getattr(import_module(f"{self.__name__}.{self.room}"), verb)(*arguments, **named)


def make_verb(package: str, room: str) -> None:
    """Makes the package a `Verb`. Without it, `import maskrcnn.train.loop` would hide the function `maskrcnn.train`."""
    module = sys.modules[package]
    module.__class__ = Verb
    module.room = room  # type: ignore[attr-defined]

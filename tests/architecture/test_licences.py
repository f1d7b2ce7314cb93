"""What `make licences` accepts, by licences as packages state them."""

from email.message import Message
from typing import Any, cast

import pytest

from tests.architecture.licences import is_permissive, row, stated


@pytest.mark.parametrize(
    "licence",
    [
        "MIT",
        "BSD 3-Clause License",
        "3-Clause BSD License",
        "BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0",
        "Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND BSL-1.0",
        "Apache Software License",
        "ISC License (ISCL)",
        "(MIT OR GPL-3.0-only) AND PSF-2.0",
    ],
)
def test_permissive(licence: str) -> None:
    assert is_permissive(licence)


@pytest.mark.parametrize(
    "licence", ["", "GPL-3.0-only", "MIT AND LGPL-3.0-or-later", "Dual License", "MPL-2.0", "BSDish"]
)
def test_not_permissive(licence: str) -> None:
    assert not is_permissive(licence)
    line, accepted = row("some_package", "1.0", licence)
    assert not accepted
    assert "some-package 1.0" in line
    assert "NOT ACCEPTED" in line


def test_the_reason_and_what_a_wheel_contains_are_said() -> None:
    assert row("nvidia_cublas", "13", "LicenseRef-NVIDIA-Proprietary")[1]
    line, accepted = row("av", "18.1.0", "BSD-3-Clause")
    assert accepted
    assert "x264" in line


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("License-Expression", "MIT"), ("License", "GPL")], "MIT"),
        ([("Classifier", "License :: OSI Approved :: MIT License"), ("License", "x")], "MIT License"),
        (
            [("Classifier", "License :: OSI Approved"), ("License", "BSD 3-Clause License\n\nCopyright")],
            "BSD 3-Clause License",
        ),
        ([], ""),
    ],
)
def test_what_a_package_states(fields: list[tuple[str, str]], expected: str) -> None:
    class Package:
        metadata = Message()

    Package.metadata = Message()
    for name, value in fields:
        Package.metadata[name] = value
    assert stated(cast(Any, Package)) == expected

"""`maskrcnn doctor`."""

from typing import Annotated

import typer

from ..errors import MaskRCNNError

MARKS = {"ok": " ", "missing": "-", "slow": "!", "broken": "X"}


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")] = False,
) -> None:
    """Describe this machine: what is fast on it, what is missing (-), slow (!) or broken (X). Exit code 1 if broken."""
    import json as text

    from ..doctor import as_json, examine

    findings = examine()
    if json:
        print(text.dumps(as_json(findings), indent=1))
    else:
        for about, state, words in findings:
            print(f"{MARKS[state]} {about:<20} {words}")
    if broken := [one for one in findings if one.state == "broken"]:
        raise Unwell("; ".join(f"{one.about}: {one.words}" for one in broken))


class Unwell(MaskRCNNError):
    """Something that was examined is broken."""

    exit_code = 1

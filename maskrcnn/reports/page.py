"""Parts of a page that is one file, needs no network, and is light or dark as the reader's system is."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from PIL import Image

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5a6472; --back: #f6f7f9; --card: #fff; --line: #dfe3e8;
  --head: #eef0f3; --note: #fff3d6; --bar: #3b6fb6; --mark: #c2521b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa5b4; --back: #14181f; --card: #1d232d;
  --line: #333c49; --head: #262e3a; --note: #4a3a12; --bar: #6f9fe0; --mark: #f08a4b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 0 auto;
  max-width: 72rem; padding: 2rem 1.5rem 4rem; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
p.under { color: var(--soft); margin: .25rem 0 0; }
p.note { background: var(--note); padding: .5rem .75rem; border-radius: 6px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin: 1.5rem 0 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .75rem 1rem; }
.tiles b { display: block; font-size: 1.6rem; line-height: 1.2; } .tiles span { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; background: var(--card); }
th, td { padding: .35rem .8rem; border: 1px solid var(--line); text-align: right; font-variant-numeric: tabular-nums; }
th { background: var(--head); font-weight: 600; } th:first-child, td:first-child { text-align: left; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
figure img { display: block; width: 100%; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 3px; align-items: start; }
.pair figure { border: 0; border-radius: 0; }
.images.pairs { grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); }
figcaption { padding: .4rem .75rem; color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
pre { background: #1d2430; color: #eef0f3; padding: .75rem 1rem; border-radius: 8px; overflow-x: auto; }
@media print { body { max-width: none; padding: 0; } .card, .chart, figure, tr { break-inside: avoid; } }
summary { cursor: pointer; margin: 2rem 0 .75rem; font-weight: 600; }
"""


def write_page(path: Path, title: str, body: Iterable[str], style: str = "") -> Path:
    """Writes the page of a title and pieces of HTML; empty pieces are left out. Returns the path."""
    head = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    head += f"<title>{escape(title)}</title><style>{_STYLE}{style}</style>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + "\n".join(filter(None, body)) + "</html>\n", encoding="utf-8")
    return path


def page_path(out: Path) -> Path:
    """`out` if it names an HTML file, else the `report.html` in it."""
    return out if out.suffix == ".html" else out / "report.html"


def tiles(rows: Iterable[tuple[str, str]]) -> str:
    """Numbers with what they are."""
    shown = (f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in rows)
    return f"<div class=tiles>{''.join(shown)}</div>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], styles: Sequence[Sequence[str]] = ()) -> str:
    """A table that scrolls if it is too wide; `styles` are CSS of its cells, row by row."""
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    for i, row in enumerate(rows):
        looks = [f" style='{look}'" if look else "" for look in styles[i]] if styles else [""] * len(row)
        lines.append("".join(f"<td{look}>{escape(cell)}</td>" for look, cell in zip(looks, row, strict=True)))
    return "<div class=wide><table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"


def framed(image: Image.Image, caption: str, longest: int = 1024) -> str:
    """An image, reduced to `longest` pixels if it is larger, with a caption."""
    small = image.convert("RGB")
    small.thumbnail((longest, longest))
    stored = io.BytesIO()
    small.save(stored, "JPEG", quality=90)
    shown = f'<img alt="{escape(caption)}" src="data:image/jpeg;base64,{base64.b64encode(stored.getvalue()).decode()}">'
    return f"<figure>{shown}<figcaption>{escape(caption)}</figcaption></figure>"

"""The board as a page of one file: tables that sort at a click, and the sheets of the entries inside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem;color:#1c1e22;max-width:120rem}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #dee0e4;white-space:nowrap}
th{cursor:pointer;vertical-align:bottom}th:after{content:" \\2195";color:#a9adb3}
th:first-child,td:first-child{text-align:left}p,figcaption{color:#696e76}
figure{margin:1rem 0}img{max-width:100%}
button{all:unset;cursor:pointer}button:focus-visible{outline:2px solid #0072b2}"""
"""Style sheet of the page."""
SCRIPT = """for(const head of document.querySelectorAll("th"))head.querySelector("button").onclick=()=>{
const body=head.closest("table").tBodies[0],at=head.cellIndex,up=head.getAttribute("aria-sort")!=="ascending";
for(const other of head.parentNode.children)other.removeAttribute("aria-sort");
head.setAttribute("aria-sort",up?"ascending":"descending");
const key=row=>row.cells[at].textContent,number=row=>parseFloat(key(row));
const order=[...body.rows].sort((a,b)=>{const d=number(a)-number(b);
return(up?1:-1)*(isNaN(d)?key(a).localeCompare(key(b)):d)});body.append(...order)};"""
"""What sorts a table by the column whose head is clicked."""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""What the page may load: nothing from elsewhere."""


def board_page(
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]], sheets: Mapping[str, bytes], legend: str
) -> str:
    """The page.

    Args:
        tables: Head and cells by title.
        sheets: PNG files by the name of the entry.
        legend: What stands below the tables.

    Returns:
        HTML.
    """
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Testbed: the board</title>",
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        f"<style>{STYLE}</style><h1>What pictures are worth to a prior</h1>",
    ]
    for title, (head, cells) in tables.items():
        names = "".join(f"<th><button>{escape(name)}</button></th>" for name in head)
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in cells)
        parts.append(f"<h2>{escape(title)}</h2><table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table>")
    parts.append(f"<p>{escape(legend)}</p>")
    for name, content in sheets.items():
        address = base64.b64encode(content).decode()
        image = f'<img src="data:image/png;base64,{address}" alt="Sheet of {escape(name)}">'
        parts.append(f"<figure><figcaption>{escape(name)}</figcaption>{image}</figure>")
    return "\n".join([*parts, f"<script>{SCRIPT}</script></html>\n"])

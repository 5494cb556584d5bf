"""How the report looks, and the little that it can do: sort its table by a column, and show the rows with a word."""

import base64
import hashlib

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; margin: 2rem auto; max-width: 90rem; padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; }
h2 { font-size: 1.15rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p, ul, ol { max-width: 60rem; }
nav a { margin-right: 1rem; }
a { color: #0a58a8; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #e6e6e6; text-align: right; white-space: nowrap; }
th { vertical-align: bottom; background: #f6f6f6; }
th.words, td.words { text-align: left; }
.sortable th { cursor: pointer; }
.sortable th[aria-sort=ascending]::after { content: " \\2191"; }
.sortable th[aria-sort=descending]::after { content: " \\2193"; }
tbody tr:hover { background: #f3f8fd; }
td.bar { min-width: 8rem; }
td.bar div { background: #4c8dc4; height: .7rem; }
figure { margin: 1.5rem 0; overflow-x: auto; }
figure img { max-width: 100%; }
figcaption { color: #555; max-width: 60rem; }
details { border: 1px solid #ddd; border-radius: 4px; margin: .4rem 0; padding: .3rem .8rem; }
details:target { border-color: #0a58a8; }
summary { cursor: pointer; overflow-wrap: anywhere; }
.columns { display: flex; flex-wrap: wrap; gap: 2rem; align-items: flex-start; }
.quiet { color: #666; }
"""

SCRIPT = """
"use strict";
const table = document.querySelector("table.sortable");
const rows = [...table.tBodies[0].rows];
const value = (row, at) => row.cells[at].dataset.v ?? row.cells[at].textContent;
function compare(a, b) {
  if (a === "" || b === "") return (a === "") - (b === "");
  return isNaN(a) || isNaN(b) ? String(a).localeCompare(b, "en", {numeric: true}) : a - b;
}
[...table.tHead.rows[0].cells].forEach((head, at) => {
  const sort = () => {
    const down = head.ariaSort === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.ariaSort = down ? "descending" : "ascending";
    const known = rows.filter(row => value(row, at) !== ""), unknown = rows.filter(row => value(row, at) === "");
    known.sort((a, b) => (down ? -1 : 1) * compare(value(a, at), value(b, at)));
    table.tBodies[0].append(...known, ...unknown);
  };
  head.tabIndex = 0;
  head.onclick = sort;
  head.onkeydown = event => { if (event.key === "Enter") sort(); };
});
document.getElementById("find").oninput = event => {
  const word = event.target.value.toLowerCase();
  for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(word);
};
function open() {
  const found = document.getElementById(location.hash.slice(1));
  if (found?.tagName === "DETAILS") found.open = true;
}
window.onhashchange = open;
open();
"""

# The browser loads nothing for this page, whatever a run wrote into it, and runs this script alone.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; script-src "
    f"'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"
)

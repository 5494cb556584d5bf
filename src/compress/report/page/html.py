"""HTML from text that others wrote: what is not `Markup` is escaped.

>>> tag("p", "a < b & ", tag("b", "c"), id='"x"')
'<p id="&quot;x&quot;">a &lt; b &amp; <b>c</b></p>'
"""

import html
from collections.abc import Iterable

from compress.io.files import printable


class Markup(str):
    """Text that is HTML already. Only functions of this module make it, and what the package itself wrote."""


def tag(name: str, /, *inside: object, **attributes: object) -> Markup:
    """An element. An attribute that is None is left out; `class_` and `data_v` stand for class and data-v."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{''.join(map(text, inside))}</{name}>")


def void(name: str, /, **attributes: object) -> Markup:
    """An element that has no inside: meta, img."""
    return Markup(tag(name, **attributes).removesuffix(f"</{name}>"))


def text(thing: object) -> Markup:
    return thing if isinstance(thing, Markup) else Markup(html.escape(printable(str(thing))))


def joined(parts: Iterable[Markup]) -> Markup:
    return Markup("\n".join(parts))


def table(headers: Iterable[object], rows: Iterable[Iterable[object]], **attributes: object) -> Markup:
    """Of cells; cells that are elements `td` already stay as they are."""
    head = tag("thead", tag("tr", *[_cell("th", header) for header in headers]))
    body = [tag("tr", *[_cell("td", value) for value in row]) for row in rows]
    return tag("table", head, tag("tbody", joined(body)), **attributes)


def _cell(name: str, value: object) -> Markup:
    is_cell = isinstance(value, Markup) and value.startswith(f"<{name}")
    return Markup(value) if is_cell else tag(name, value)

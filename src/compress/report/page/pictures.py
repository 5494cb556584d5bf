"""Figures as pictures inside of a page."""

import base64
import io
from typing import Any

from compress.report.page.html import Markup, void

MOST_SVG = 2**20  # bytes; what has more points is no lighter as lines


def picture(figure: Any, what: str) -> Markup:
    """As SVG, which stays sharp, or as PNG where that is lighter. In an element `img` neither runs a script."""
    from matplotlib import pyplot

    content, kind = _saved(figure, "svg"), "svg+xml"
    if len(content) > MOST_SVG:
        content, kind = _saved(figure, "png"), "png"
    width = round(72 * figure.get_size_inches()[0]) if kind == "png" else None
    pyplot.close(figure)
    data = base64.b64encode(content).decode()
    return void("img", src=f"data:image/{kind};base64,{data}", alt=what, width=width)


def _saved(figure: Any, style: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(
        file, format=style, dpi=144, bbox_inches="tight", metadata={"Date": None} if style == "svg" else None
    )
    return file.getvalue()

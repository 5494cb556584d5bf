"""The page of `compress compare --html`: table, figures, and every run with its settings, stages and layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.errors import InputError
from compress.report.page.html import Markup, joined, table, tag, void
from compress.report.page.look import POLICY, SCRIPT, STYLE
from compress.report.page.pictures import picture
from compress.report.read.plans import kept_shares
from compress.report.read.runs import Run, Unfinished
from compress.report.table import as_text
from compress.report.table.render import Grid, legend, make_grid, shared_settings
from compress.report.table.rows import Table

MOST_RUNS = 500  # with details; more would make a page that no browser likes
CAPTIONS = {
    "front": "Accuracy over multiply-adds. Large points are means over seeds with their standard deviation.",
    "budgets": "Accuracy at equal budgets; the axis does not begin at 0.",
    "training": "Held-out accuracy while networks train. A line that several runs share is grey.",
    "layers": "What every layer kept, means over seeds.",
    "search": "Searches: the best candidate so far; single candidates are faint.",
    "stages": "The stages of the runs, and which of them a teacher joins.",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a page shows."""

    title: str
    made: str  # when, and by which version
    table: Table
    figures: Mapping[str, Any]  # by name, such as "front"
    unfinished: Sequence[Unfinished] = ()
    notes: Sequence[str] = ()  # what could not be drawn
    details: bool = False  # the columns of --details too


def page(report: Report) -> str:
    """One HTML document that loads nothing."""
    runs = list(dict.fromkeys(id(run) for row in report.table.rows for run in row.runs))
    by_id = {id(run): run for row in report.table.rows for run in row.runs}
    anchors = {run: f"run-{at + 1}" for at, run in enumerate(runs[:MOST_RUNS])}
    head = tag(
        "head",
        void("meta", charset="utf-8"),
        void("meta", http_equiv="Content-Security-Policy", content=POLICY),
        void("meta", name="viewport", content="width=device-width"),
        tag("title", report.title),
        tag("style", Markup(STYLE)),
    )
    parts = [
        tag("h1", report.title),
        tag("p", report.made, class_="quiet"),
        _contents(report),
        _table(report, anchors),
        _figures(report),
        _runs([by_id[run] for run in anchors], anchors, len(runs)),
        _unfinished(report.unfinished),
        tag("script", Markup(SCRIPT)),
    ]
    return f'<!doctype html>\n<html lang="en">\n{head}\n{tag("body", joined(parts))}\n</html>\n'


def _contents(report: Report) -> Markup:
    names = {"table": "Table", "figures": "Figures", "runs": "Runs"}
    names |= {"unfinished": "Without results"} if report.unfinished else {}
    return tag("nav", *[tag("a", name, href=f"#{anchor}") for anchor, name in names.items()])


def _table(report: Report, anchors: Mapping[int, str]) -> Markup:
    grid = make_grid(report.table, report.details)
    headers = [
        tag("th", *_lines(header), class_=_side(side)) for header, side in zip(grid.headers, grid.sides, strict=True)
    ]
    rows = [_row(at, report.table, grid, anchors) for at in range(len(grid.cells))]
    search = void("input", id="find", type="search", placeholder="rows with ...", aria_label="rows with this word")
    below = [*grid.notes, shared_settings(report.table), legend(report.table)]
    return tag(
        "section",
        tag("h2", "Table"),
        tag("p", "A click on a header sorts by it. ", search),
        tag("div", table([*headers, tag("th", "run")], rows, class_="sortable"), class_="wide"),
        *[tag("p", line, class_="quiet") for line in below],
        id="table",
    )


def _row(at: int, whole: Table, grid: Grid, anchors: Mapping[int, str]) -> list[Markup]:
    cells = [
        tag("td", cell, class_=_side(side), data_v=value)
        for cell, side, value in zip(grid.cells[at], grid.sides, grid.values[at], strict=True)
    ]
    links = [
        tag("a", anchors[id(run)][4:], href=f"#{anchors[id(run)]}")
        for run in whole.rows[at].runs
        if id(run) in anchors
    ]
    return [*cells, tag("td", *[part for link in links for part in (link, " ")])]


def _lines(header: str) -> list[object]:
    first, *others = header.split("\n")
    return [first, *[part for line in others for part in (void("br"), line)]]


def _side(side: str) -> str | None:
    return "words" if side == "left" else None


def _figures(report: Report) -> Markup:
    shown = [
        tag("figure", picture(figure, CAPTIONS.get(name, name)), tag("figcaption", CAPTIONS.get(name, name)))
        for name, figure in report.figures.items()
    ]
    nothing = [] if shown else [tag("p", "These runs left nothing that could be drawn.")]
    notes = [tag("p", note, class_="quiet") for note in report.notes]
    return tag("section", tag("h2", "Figures"), *shown, *nothing, *notes, id="figures")


def _runs(runs: Sequence[Run], anchors: Mapping[int, str], count: int) -> Markup:
    left = f"The first {len(runs)} of {count} runs; choose with --where to see others." if count > len(runs) else ""
    return tag(
        "section", tag("h2", "Runs"), tag("p", left), joined(_run(run, anchors[id(run)]) for run in runs), id="runs"
    )


def _run(run: Run, anchor: str) -> Markup:
    name = f"{anchor[4:]}: {run.folder}" + (f", {run.control}" if run.control else "")
    facts = {"started": run.started, "budget": run.asked, "achieved": run.achieved, "met": run.budget.get("met")}
    facts |= {"devices": run.devices, "seconds of this run": run.seconds}
    parts = [
        _pairs("Run", {key: value for key, value in facts.items() if value not in (None, {})}),
        _networks(run),
        _pairs("Settings", run.settings),
        _stages(run),
        _layers(run),
    ]
    return tag("details", tag("summary", name), tag("div", *parts, class_="columns"), id=anchor)


def _pairs(title: str, pairs: Mapping[str, Any]) -> Markup:
    rows = [[_words(key), _words(_shown(value))] for key, value in pairs.items()]
    return tag("div", tag("h3", title), table([_words("", "th"), _words("", "th")], rows))


def _words(text: object, name: str = "td") -> Markup:
    return tag(name, text, class_="words")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(inside)}" for key, inside in value.items())
    return as_text.one_line(as_text.setting(value))


def _networks(run: Run) -> Markup:
    names = list(dict.fromkeys(key for row in run.results.values() for key in row))
    rows = [
        [_words(name), *[_shown(row[name]) if name in row else "" for row in run.results.values()]] for name in names
    ]
    return tag("div", tag("h3", "Networks"), table([_words("", "th"), *run.results], rows))


def _stages(run: Run) -> Markup:
    facts = {
        name: {key: value for key, value in stage.items() if not isinstance(value, dict | list)}
        for name, stage in run.stages.items()
    }
    return tag("div", *[_pairs(f"Stage {name}", stage) for name, stage in facts.items()])


def _layers(run: Run) -> Markup:
    try:
        shares = kept_shares(run)
    except InputError:
        return Markup("")
    rows = [
        [
            _words(name),
            as_text.share(share),
            tag("td", tag("div", style=f"width:{100 * min(max(share, 0), 1):.1f}%"), class_="bar"),
        ]
        for name, share in shares.items()
    ]
    return tag("div", tag("h3", "Layers"), table([_words("layer", "th"), "kept", ""], rows))


def _unfinished(unfinished: Sequence[Unfinished]) -> Markup:
    if not unfinished:
        return Markup("")
    rows = [[_words(one.folder), _words(one.why)] for one in unfinished]
    title = tag("h2", f"Without results ({len(rows)})")
    return tag("section", title, table([_words("folder", "th"), _words("why", "th")], rows), id="unfinished")

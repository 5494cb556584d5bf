"""The page of `compress compare --html`: everything in it, nothing from elsewhere, and text of others is text."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from compress.io.files import write_json
from compress.report.compare import main
from compress.report.page.html import Markup, tag

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-headless-shell", "google-chrome"))), None)
EVIL = '</style></script><script>document.title="owned"</script><img src=x onerror="x()">"\'&\x1b\u202e'


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text inside of it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((name, dict(attributes)))
        if name not in ("meta", "img", "input", "br"):
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for element, attributes in self.found if element == name]


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Runs whose names, settings, errors and layers are hostile, and one that failed."""
    for seed in range(3):
        folder = tmp_path / "outputs" / f"run{seed}{EVIL.replace('/', '')}"
        folder.mkdir(parents=True)
        networks = {
            name: {"top1": 90.0 + seed, "macs": 10**6 * (2 + seed), EVIL: EVIL} for name in ("dense", "finetuned")
        }
        summary = {
            "status": "done", "config": {"seed": seed, "method": {"name": f"m{EVIL}"}, EVIL: f"{EVIL}{seed}"},
            "results": networks, "stages": {"finetune": {"epochs": 2, EVIL: EVIL}}, "started": EVIL,
            "budget": {"asked": {"percent": 0.5}, "achieved": {"percent": 0.4}},
        }  # fmt: skip
        write_json(folder / "summary.json", summary)
        write_json(folder / "plan.json", {"layers": {EVIL: {"kept_width": seed + 1, "width": 4}}})
        rows = [{"stage": "finetune", "epoch": at, "held_out_top1": 80 + at} for at in (1, 2)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "outputs" / "failed").mkdir()
    write_json(tmp_path / "outputs" / "failed" / "summary.json", {"status": "failed", "error": EVIL})
    return tmp_path / "outputs"


@pytest.fixture
def page(outputs: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = outputs.parent / "new" / "report.html"
    assert main([str(outputs), "--html", str(path)]) == 0
    assert capsys.readouterr().err.endswith(f"written: {path}\n")
    return path


def test_every_run_is_there_with_its_layers_and_figures(page: Path) -> None:
    elements = Elements(page.read_text())
    assert elements.open == []
    assert [each["id"] for each in elements.named("details")] == ["run-1", "run-2", "run-3"]
    links = {each["href"] for each in elements.named("a")}
    assert links == {"#table", "#figures", "#runs", "#unfinished", "#run-1", "#run-2", "#run-3"}
    assert len(elements.named("figure")) == 4  # front, budgets, training, layers
    widths = [each["style"] for each in elements.named("div") if "style" in each]
    assert widths == ["width:25.0%", "width:50.0%", "width:75.0%"]
    assert {"92.00", "91.00", "90.00", "Without results (1)"} <= set(elements.texts)


def test_text_of_others_is_text_and_nothing_is_loaded(page: Path) -> None:
    content = page.read_text()
    elements = Elements(content)
    assert not set(content) & {"\x1b", "\u202e"}
    assert len(elements.named("script")) == len(elements.named("style")) == 1
    assert not [key for _, attributes in elements.found for key in attributes if key.startswith("on")]
    assert all((each["src"] or "").startswith("data:image/svg+xml;base64,") for each in elements.named("img"))
    assert not {"link", "iframe", "object", "base", "form"} & {name for name, _ in elements.found}
    assert not re.search(r"https?://", content)
    policy = elements.named("meta")[1]["content"] or ""
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert sum("owned" in each for each in elements.texts) >= 10  # it is shown, as it is


def test_only_markup_is_not_escaped() -> None:
    assert tag("p", "<b>", tag("i", "x"), title='"<') == '<p title="&quot;&lt;">&lt;b&gt;<i>x</i></p>'
    assert tag("p", Markup("<b>")) == "<p><b></p>"


def test_a_folder_is_no_file_to_write(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(outputs), "--html", str(outputs)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "is a folder; give the file to write" in told.err


def in_browser(page: Path) -> str:
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom")
    done: Any = subprocess.run([str(BROWSER), *flags, page.as_uri()], capture_output=True, timeout=120)
    return str(done.stdout.decode())


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_sorts_the_table_and_runs_no_script_of_others(page: Path) -> None:
    shown = in_browser(page)
    assert "<title>owned" not in shown
    assert re.search(r'<th class="words" tabindex="0">', shown)  # the page's own script ran, by its policy
    clicking = page.read_text().replace("open();\n</script>", "document.querySelectorAll('.sortable th').forEach("
        "head => {if (head.textContent === 'MACs,M') {head.click(); head.click();}});open();\n</script>")  # fmt: skip
    other = page.with_name("clicked.html")
    other.write_text(re.sub(r"<meta http-equiv[^>]*>", "", clicking))  # the policy knows the script as it was
    body = in_browser(other)
    assert [body.index(f'href="#run-{number}"') for number in (3, 2, 1)] == sorted(
        body.index(f'href="#run-{number}"') for number in (1, 2, 3)
    )
    assert 'aria-sort="descending"' in body

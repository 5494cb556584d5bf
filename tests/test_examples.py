"""examples/ runs as it stands: the script, and the notebook's code cell by cell, which give the same figures."""

import ast
import contextlib
import io
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import compress

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPT, NOTEBOOK = EXAMPLES / "prune_your_network.py", EXAMPLES / "prune_your_network.ipynb"
Figures = list[tuple[float, int, int]]  # top-1, MACs, parameters: dense, pruned, fine-tuned
LARGEST = re.compile(r"largest difference of masked and cut logits: (\S+)\n")


def cells(kind: str) -> list[str]:
    content = json.loads(NOTEBOOK.read_text())
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == kind]


@pytest.fixture(scope="module")
def scripted() -> tuple[Figures, str]:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        return runpy.run_path(str(SCRIPT))["main"](), printed.getvalue()


def test_the_script_halves_the_macs_and_recovers(scripted: tuple[Figures, str]) -> None:
    ((dense, macs, params), (pruned, *small), (tuned, *after)), printed = scripted
    assert macs == 64 * 9 * (16 + 2 * 16 * 16) + 16 * 9 * 16 * 32 + 32 * 10
    assert params == 9 * (16 + 2 * 16 * 16 + 16 * 32) + 2 * (3 * 16 + 32) + 32 * 10 + 10
    first, inner, last = (int(kept) for kept in re.findall(r"(\d+) of \d\d[,\n]", printed))
    assert small[0] == 64 * 9 * (first + 2 * first * inner) + 16 * 9 * first * last + last * 10
    assert 0.45 * macs < small[0] <= 0.5 * macs
    assert small == after
    assert small[1] < params
    assert dense > 93
    assert tuned > 93
    assert pruned < tuned
    assert float(LARGEST.findall(printed)[0]) < 1e-3


def test_the_notebook_gives_the_same_figures(
    scripted: tuple[Figures, str], capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {"__name__": "notebook"}
    assert len(cells("code")) >= 10
    for at, code in enumerate(cells("code")):
        exec(compile(code, f"{NOTEBOOK.name}, code cell {at}", "exec"), names)
    assert [names["dense"], names["pruned"], names["tuned"]] == scripted[0]
    assert float(LARGEST.findall(capsys.readouterr().out)[0]) < 1e-3
    # what its last cell says of keeping the network
    again = compress.cut(names["SmallNet"](), compress.Plan(names["plan"].to_json()), example=(1, 8, 8)).eval()
    again.load_state_dict(names["small"].state_dict())
    with torch.no_grad():
        assert torch.equal(again(names["test_x"]), names["small"](names["test_x"]))


def test_the_notebook_is_one_of_version_4_without_outputs_that_tells_the_scripts_story() -> None:
    content = json.loads(NOTEBOOK.read_text())
    assert content.keys() == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in content["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-zA-Z0-9-_]{1,64}", name) for name in ids)
    for cell in content["cells"]:
        common = {"cell_type", "id", "metadata", "source"}
        assert cell.keys() == (common if cell["cell_type"] == "markdown" else common | {"execution_count", "outputs"})
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)
    assert len(cells("markdown")) >= 6

    def defined(source: str) -> dict[str, str]:
        kinds = (ast.FunctionDef, ast.ClassDef)
        return {node.name: ast.unparse(node) for node in ast.parse(source).body if isinstance(node, kinds)}

    script = defined(SCRIPT.read_text())
    assert script.pop("main")
    assert len(script) >= 5
    assert defined("\n".join(cells("code"))) == script

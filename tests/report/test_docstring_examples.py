"""The examples in docstrings are true."""

import doctest
import importlib
import pkgutil

import compress.report


def test_examples_in_docstrings_are_true() -> None:
    checked = 0
    for module in pkgutil.walk_packages(compress.report.__path__, "compress.report."):
        failed, attempted = doctest.testmod(importlib.import_module(module.name))
        assert not failed, module.name
        checked += attempted
    assert checked >= 25

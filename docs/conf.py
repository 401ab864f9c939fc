"""Sphinx configuration: Markdown pages, API reference from docstrings, warnings are errors."""

from importlib.metadata import version as _version

from sphinx.application import Sphinx

project = "knowtation_backup"
author = "the knowtation_backup authors"
release = _version("knowtation-backup")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"knowtation_backup {release}"
exclude_patterns = ["conftest.py"]
autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Source", "notes_style"), ("Raises (while iterating)", "Raises")]


def setup(app: Sphinx) -> None:
    """Register what runs before napoleon."""
    app.connect("autodoc-process-docstring", _keep_colons, priority=100)


def _keep_colons(_app: Sphinx, what: str, _name: str, _item: object, _options: object, lines: list[str]) -> None:
    """Keep napoleon from taking words before a colon for a type: it looks at the first line, so give it a comment."""
    if what in {"attribute", "property", "data"}:
        lines[:0] = ["..", ""]

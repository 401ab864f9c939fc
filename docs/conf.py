"""Sphinx configuration: Markdown pages, API reference from docstrings, warnings are errors."""

from importlib.metadata import version as _version

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
napoleon_custom_sections = [("Source", "notes_style")]

"""Sphinx settings. The source folder is the repository, so that links between pages hold here and on the web:

sphinx-build -W --keep-going -c docs . build/docs
"""

from importlib.metadata import version as version_of

project = "sccafm"
author = "The sccafm developers"
copyright = author
release = version = version_of("sccafm")

root_doc = "docs/index"
include_patterns = [
    "docs/**.md", "docs/api/generated/*.rst", "benchmarks/*.md", "models/*.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"
]  # fmt: skip
exclude_patterns = [".*", "build", "dist", "runs", "src", "tests", "scripts", "**/.ipynb_checkpoints"]
templates_path = ["_templates"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]

# Tutorials are run by tests/test_tutorials.py, and their pages show the code alone.
nb_execution_mode = "off"
myst_heading_anchors = 4

default_role = "py:obj"  # single backticks of docstrings link where they name something of this library
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"  # types stand beside the parameters, not in one long line
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "sphinx_book_theme"
html_title = f"sccafm {version}"
html_theme_options = {"show_navbar_depth": 1, "home_page_in_toc": True}
html_extra_path = ["_extra"]  # index.html: the root leads to docs/index.html

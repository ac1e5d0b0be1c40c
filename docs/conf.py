"""Settings of Sphinx: pages in Markdown, the reference from docstrings."""

import hpcpar

project = "hpcpar"
author = "The hpcpar developers"
copyright = author
release = hpcpar.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "hpcpar"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

default_role = "code"  # docstrings quote names in single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True}

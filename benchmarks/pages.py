"""Tables, and a page that several scripts write: each its own sections, whole or not at all."""

import os
import re
from pathlib import Path

import pandas as pd

from sccafm.evaluate.markdown import markdown_table


def section(page: str, title: str) -> str:
    """The section `## title` of a page, up to the next one of its level; empty where there is none."""
    found = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return found.group().rstrip() if found else ""


def renew_section(path: Path, title: str, body: str) -> None:
    """Put `body` under `## title` in the place of what stands there, or at the end of the page."""
    page, new = path.read_text() if path.exists() else "", f"## {title}\n\n{body.strip()}"
    old = section(page, title)
    write_page(path, page.replace(old, new, 1) if old else f"{page.rstrip()}\n\n{new}\n".lstrip())


def table(frame: pd.DataFrame, digits: int = 3) -> str:
    rows = ([f"{v:.{digits}f}" if isinstance(v, float) else v for v in row] for row in frame.itertuples(index=False))
    return markdown_table(frame.columns, rows)


def write_page(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)

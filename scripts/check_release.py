"""Which pages were measured with other weights than those in models/.

    python scripts/check_release.py

Prints a line for each part of a page whose stamp is not the bundled model's, with the command that measures it again, and exits
with 1 where there is one. Run it before a release; new weights do not have to wait for their pages.
"""

import json
import sys
from pathlib import Path

import sccafm
from sccafm.model.weights import module_hash

ROOT = Path(__file__).parents[1]
SHORT = 12  # digits of a stamp
PAGES = {  # JSON beside a page -> how it is made
    "docs/embedding.json": "python benchmarks/embedding.py --parts {part}",
}
FREE = ("ablations",)  # parts that train modules of their own


def stale(content: dict, stamp: dict[str, str]) -> list[str]:
    """Parts that were measured with other modules than `stamp` names.

    Parameters
    ----------
    content
        Part -> what was kept of it, with the hash of each module under the names of `stamp`.
    stamp
        Module -> leading digits of the hash of the bundled weights.
    """
    parts = {part: found for part, found in content.items() if part not in FREE}
    return [part for part, found in parts.items() if any(found.get(name) != value for name, value in stamp.items())]


def main() -> int:
    model = sccafm.load(device="cpu")
    stamp = {"sfm": model.weights_hash[:SHORT], "efm": module_hash(model.efm)[:SHORT]}
    found = [
        f"{page}: {part} belongs to other weights; measure it again: {command.format(part=part)}"
        for page, command in PAGES.items()
        for part in stale(json.loads((ROOT / page).read_text()), stamp)
    ]
    print("\n".join(found) or "every page belongs to the bundled weights")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())

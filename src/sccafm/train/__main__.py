"""``python -m sccafm.train sfm``: the same as ``sccafm train sfm``."""

import sys

from sccafm.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])

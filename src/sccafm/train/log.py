"""What a run says of itself: loss terms as CSV, as a picture, and for TensorBoard where that is installed."""

import csv
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pandas as pd


class Log:
    """Loss terms by step; rows after the checkpoint that a run is taken up from are dropped, for they come again.

    Parameters
    ----------
    run
        Folder for log.csv, and tensorboard/ where TensorBoard is installed.
    terms
        Names of the columns after step and part.
    first
        Steps that are done.
    """

    def __init__(self, run: Path, terms: Sequence[str], first: int):
        self.path, self.columns = run / "log.csv", ["step", "part", *terms]
        kept = []
        if self.path.exists() and first:
            with self.path.open(newline="") as file:
                kept = [row for row in csv.DictReader(file) if int(row["step"]) <= first]
        self._write("w", kept, header=True)
        self.board = None
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(run / "tensorboard", purge_step=first + 1)

    def add(self, step: int, part: str, numbers: dict[str, float], **others: float) -> None:
        """Add the terms of a step; `others` (a speed, a rate) go to TensorBoard alone, for they differ between runs."""
        self._write("a", [{"step": step, "part": part} | {k: f"{v:.6g}" for k, v in numbers.items()}], header=False)
        if self.board is not None:
            for name, value in (numbers | others).items():
                self.board.add_scalar(f"{name}/{part}", value, step)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()

    def _write(self, mode: str, rows: list[dict], header: bool) -> None:
        with self.path.open(mode, newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            if header:
                writer.writeheader()
            writer.writerows(rows)


def draw_curves(log: pd.DataFrame, path: Path) -> None:
    """Loss terms of training (a mean of 25 rows) and of held-out cells, by step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    terms = [c for c in log.columns if c not in ("step", "part")]
    figure = Figure(figsize=(12, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, -(-len(terms) // 2), squeeze=False)
    for axis, term in zip(axes.flat, terms, strict=False):
        for part, color in (("train", "0.75"), ("validation", "tab:blue")):
            rows = log[log["part"] == part]
            values = rows[term].rolling(25, min_periods=1).mean() if part == "train" else rows[term]
            axis.plot(rows["step"], values, color=color, label=part, marker="." if len(rows) == 1 else None)
        axis.set(title=term, xlabel="step")
    axes.flat[0].legend(frameon=False)
    for axis in axes.flat[len(terms) :]:
        axis.remove()
    figure.savefig(path, dpi=80, format="png")

"""Plots of a comparison's curves over epochs."""

from collections.abc import Sequence
from io import BytesIO

import pyarrow as pa
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def plot(curves: pa.Table, columns: Sequence[str]) -> bytes:
    """Plot columns over epochs as a PNG: mean over seeds and a band of one standard deviation.

    There is one line per method and column.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for method, own in curves.to_pandas().groupby("method", sort=False):
        for column in columns:
            by_epoch = own.groupby("epoch")[column].agg(["mean", "std"]).dropna(subset="mean")
            if by_epoch.empty:
                continue
            mean, sd = by_epoch["mean"], by_epoch["std"].fillna(0)
            name = f"{method}: {column.removeprefix('share_')}" if len(columns) > 1 else method
            (line,) = axes.plot(by_epoch.index, mean, label=name)
            axes.fill_between(
                by_epoch.index, mean - sd, mean + sd, alpha=0.15, color=line.get_color()
            )
    axes.set_xlabel("epoch")
    axes.set_ylabel(columns[0].replace("_", " ") if len(columns) == 1 else "share of samples")
    if axes.lines:
        figure.legend(loc="outside right upper", fontsize="small")
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()

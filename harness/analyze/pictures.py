"""Pictures of the analyses, in the style of the boards'."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from harness.analyze.shift import WHITEBOX
from harness.analyze.study import Row
from harness.board.plots.style import COLOURS, Figure, canvas, distinct, look

Tables = Mapping[str, Sequence[Row]]


def shift(tables: Tables) -> Figure:
    """Return one panel for each target: divergence of every layer, one line for each substitute, the white-box line black."""
    rows = tables["shift"]
    targets = distinct([row["target"] for row in rows])[:12]
    columns = min(3, len(targets))
    lines = -(-len(targets) // columns)
    figure, axes = canvas(3.2 * columns + 1.8, 2.5 * lines + 0.4, lines, columns, sharey=True)
    names = distinct([row["substitute"] for row in rows])
    for place, axis in enumerate(axes.flat):
        if place >= len(targets):
            axis.set_visible(False)
            continue
        for at, name in enumerate(names):
            chosen = [row for row in rows if (row["target"], row["substitute"]) == (targets[place], name)]
            style = look(at) if name != WHITEBOX else {"color": "black", "marker": "", "ls": "-", "lw": 2.2}
            axis.plot([r["layer"] for r in chosen], [r["mean"] for r in chosen], label=name, **{"ms": 4, "lw": 1.4} | style)
        axis.set_title(targets[place])
        axis.grid(axis="y")
    for axis in axes[:, 0]:
        axis.set_ylabel("feature divergence (Eq. 8)")
    for axis in axes[-1]:
        axis.set_xlabel("layer")
        axis.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", handlelength=3)
    return figure


def alignment(tables: Tables) -> Figure:
    """Return the mean similarity of every substitute by each measure, and the models in three dimensions."""
    means, places = tables["means"], tables["places"]
    measures = distinct([row["measure"] for row in means])
    names = distinct([row["substitute"] for row in means])
    figure, axes = canvas(11, 4.6, 1, 2)
    axis = axes[0][0]
    for at, measure in enumerate(measures):
        chosen = [row for row in means if row["measure"] == measure]
        ys = [names.index(row["substitute"]) + 0.2 * (at - (len(measures) - 1) / 2) for row in chosen]
        bars = [[r["mean"] - r["low"] for r in chosen], [r["high"] - r["mean"] for r in chosen]]
        style = look(at) | {"ls": "none", "label": measure.replace("_", " ")}
        axis.errorbar([r["mean"] for r in chosen], ys, xerr=bars, capsize=2, **style)
    axis.set_yticks(range(len(names)), [f"{name}  ({number})" for number, name in enumerate(names, start=1)])
    axis.invert_yaxis()
    axis.grid(axis="x")
    axis.set_xlabel("mean over targets, 95 % interval over images")
    axis.set_title("Alignment of input gradients (cosine: Eq. 9)")
    axis.legend(loc="upper center", bbox_to_anchor=(0.4, -0.14), ncols=len(measures))
    axes[0][1].remove()
    if places:
        space = figure.add_subplot(1, 2, 2, projection="3d")
        for at, kind in enumerate(distinct([row["kind"] for row in places])):
            chosen = [row for row in places if row["kind"] == kind]
            points = [[row[key] for row in chosen] for key in ("x", "y", "z")]
            space.scatter(*points, label=kind, color=COLOURS[at], marker=look(at)["marker"], s=28, depthshade=False)
            for row in chosen if kind == "substitute" else ():  # the numbers of the left panel
                space.text(row["x"], row["y"], row["z"], f" {1 + names.index(row['model'])}", fontsize=8)
        space.set_title(f"1 − cosine, by metric MDS (stress {places[0]['stress']:.2f})")
        space.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2)
    return figure


def batchnorm(tables: Tables) -> Figure:
    """Return how far what each state measures lies from what its layers keep, layer by layer."""
    rows = tables["distances"]
    figure, axes = canvas(10, 3.8, 1, 2)
    lines = list(dict.fromkeys((str(row["model"]), str(row["statistics"])) for row in rows))
    kinds = (("mean_shift", "|shift of means| / sd"), ("log_variance_ratio", "|ln variance ratio|"))
    for axis, (key, words) in zip(axes[0], kinds, strict=True):
        for at, (model, statistics) in enumerate(lines):
            chosen = [row for row in rows if (row["model"], row["statistics"]) == (model, statistics)]
            label = f"{model}, {statistics.removeprefix('measured ')}"
            axis.plot([r["layer"] for r in chosen], [r[key] for r in chosen], label=label, ms=4, lw=1.3, **look(at))
        axis.set_xlabel("batch normalisation")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_ylabel(f"{words}, mean over channels")
        axis.grid(axis="y")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", handlelength=3)
    figure.suptitle("Statistics measured in a state against those kept", fontsize=9.5)
    return figure


def states(tables: Tables) -> Figure:
    """Return the success rate of every state, one bar each, with the family means as points."""
    rows = [row for row in tables["rates"] if row["targets"] == "all families" and row["asr"] is not None]
    figure, axes = canvas(10.5, 1.2 + 0.34 * len(rows))
    axis = axes[0][0]
    kinds = distinct([row["state"] for row in rows])
    hatches = ("", "///", "...", "xx", "\\\\\\")
    for place, row in enumerate(rows):
        kind = kinds.index(row["state"])
        bar = [[row["asr"] - row["low"]], [row["high"] - row["asr"]]]
        style = {"color": COLOURS[kind % len(COLOURS)], "hatch": hatches[kind % len(hatches)], "edgecolor": "white", "lw": 0.4}
        axis.barh(place, row["asr"], 0.72, xerr=bar, error_kw={"lw": 0.8, "capsize": 2, "ecolor": "#5A636C"}, **style)
    names = [f"{row['substitute'].removesuffix('.wa').removesuffix('.w')}: {row['state']}" for row in rows]
    axis.set_yticks(range(len(rows)), names, fontsize=7.5)
    axis.invert_yaxis()
    axis.set_xlabel("ASR over black-box targets (%), 95 % interval")
    axis.grid(axis="x")
    axis.set_axisbelow(True)
    return figure


def sharpness(tables: Tables) -> Figure:
    """Return the sharpness of every model, one panel for each space, a bar for each box."""
    rows = tables["sharpness"]
    spaces, names = distinct([row["space"] for row in rows]), distinct([row["model"] for row in rows])
    figure, axes = canvas(2.9 * len(spaces) + 2.2, 1.4 + 0.36 * len(names), 1, len(spaces), sharey=True)
    for axis, space in zip(axes[0], spaces, strict=True):
        widths = distinct([row["eps"] for row in rows])
        for at, eps in enumerate(widths):
            chosen = [row for row in rows if row["space"] == space and row["eps"] == eps]
            ys = np.array([names.index(row["model"]) for row in chosen]) + 0.36 * (at - (len(widths) - 1) / 2)
            style = {"color": COLOURS[at % len(COLOURS)], "hatch": ("", "///", "...")[at % 3], "edgecolor": "white"}
            axis.barh(ys, [r["sharpness"] for r in chosen], 0.34, label=f"eps {eps:g}", **style)
        axis.set_title({"effective": "effective weights", "latent": "latent weights", "feature": "features"}[space])
        axis.set_xlabel("sharpness")
        axis.grid(axis="x")
        axis.set_axisbelow(True)
    axes[0][0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0][0].invert_yaxis()
    axes[0][-1].legend()
    return figure


def margins(tables: Tables) -> Figure:
    """Return the success rate by the target's clean margin, the mean over targets, one line for each substitute."""
    rows = tables["margins"]
    names, parts = distinct([row["substitute"] for row in rows]), sorted({row["part"] for row in rows})
    figure, axes = canvas(7.4, 3.6)
    axis = axes[0][0]
    for at, name in enumerate(names):
        values = [np.mean([r["asr"] for r in rows if r["substitute"] == name and r["part"] == part]) for part in parts]
        axis.plot(parts, values, label=name, ms=5, lw=1.4, **look(at))
    axis.set_xticks(parts)
    axis.set_xlabel(f"images by the target's clean margin, smallest first ({len(parts)} groups of equal size)")
    axis.set_ylabel("ASR, mean over targets (%)")
    axis.grid(axis="y")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=3)
    return figure


PICTURES: dict[str, Callable[[Tables], Figure]] = {
    "shift": shift,
    "alignment": alignment,
    "batchnorm": batchnorm,
    "states": states,
    "sharpness": sharpness,
    "margins": margins,
}

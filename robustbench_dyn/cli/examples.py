"""Examples of each command, for its help."""

from __future__ import annotations

EXAMPLES = {
    "run": (
        "dynbench run --model lipflow",
        "dynbench run --model lipflow --eps 0.25 0.5 1.0 --export verdicts.csv",
        "dynbench run --model sll --model aol --norm Linf --eps 8/255 --json",
        "dynbench run --model hamiltonian --dataset moons --attacks apgd-ce,square",
        "dynbench run --model torchvision:resnet18 --dataset folder:photos,Res256Crop224",
    ),
    "smooth": (
        "dynbench smooth --model euler_resnet --sigma 0.25",
        "dynbench smooth --model euler_resnet --sigma 0.25 --eps 0.5 1.0 --export smooth.tsv",
    ),
    "curve": (
        "dynbench curve --model lipflow --export curve.csv",
        "dynbench curve --model lipflow --eps 0.1 0.2 0.5",
    ),
    "list": ("dynbench list models", "dynbench list datasets --json"),
    "show": ("dynbench show lipflow", "dynbench show feedforward"),
    "check": ("dynbench check lipflow", "dynbench check square"),
    "new": (
        "dynbench new mine",
        "dynbench new mine --kind attack",
        "dynbench new mine --package",
    ),
    "train": (
        "dynbench train --model lipflow --dataset moons",
        "dynbench train --model mine --plugins mine --install --plot loss.png",
    ),
    "sweep": ("dynbench sweep sweep.yaml --workers 4",),
    "leaderboard": (
        "dynbench leaderboard --to leaderboards --add",
        "dynbench leaderboard --published",
        'dynbench leaderboard --remove lipflow --why "trained on the test set"',
    ),
    "verify": (
        "dynbench verify leaderboards",
        "dynbench verify leaderboards --replay --sample 50",
    ),
    "export": ("dynbench export verdicts.parquet",),
    "compare": (
        "dynbench compare lipflow sll",
        "dynbench compare lipflow euler_resnet --store dynbench.sqlite --eps 0.5",
    ),
    "settings": ("dynbench settings",),
    "store check": ("dynbench store check dynbench.sqlite",),
    "store merge": ("dynbench store merge a.sqlite b.sqlite --to all.sqlite",),
    "plot flow": ("dynbench plot flow --model lipflow --to flow.png",),
    "plot curves": ("dynbench plot curves --model lipflow --model sll --to curves.png",),
    "plot radii": ("dynbench plot radii --model lipflow --to radii.png",),
    "plot examples": (
        "dynbench plot examples --model lipflow --to broken.png",
        "dynbench plot examples --model lipflow --status certified --to certified.pdf",
    ),
    "plot leaderboard": ("dynbench plot leaderboard --norm L2 --eps 0.5 --to table.png",),
}

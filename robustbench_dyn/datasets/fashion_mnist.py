"""Fashion-MNIST: 28 x 28 grey images of clothes (arXiv:1708.07747); its test split is shipped."""

from __future__ import annotations

from pathlib import Path

from robustbench_dyn.datasets.dataset import DatasetInfo, RawSplit, Split
from robustbench_dyn.datasets.idx_sets import read_or_fetch, read_shipped
from robustbench_dyn.datasets.published import FASHION_MNIST

SHIPPED_FOLDER = Path(__file__).parent / "fashion_mnist_files"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


def load_raw(split: Split, data_dir: Path | None) -> RawSplit:
    """Read the shipped test split, or find or fetch the training split; x is (n, 1, 28, 28).

    Raises IntegrityError where a shipped file is damaged, else what read_or_fetch raises.
    """
    if split == "train":
        return read_or_fetch(
            FASHION_MNIST,
            split,
            data_dir,
            system_folders=[DEBIAN_FOLDER],
            other_remedy="apt install dataset-fashion-mnist; ",
        )
    # The shipped files are the published ones: no folder could hold better.
    return read_shipped(FASHION_MNIST.files[split], SHIPPED_FOLDER)


INFO = DatasetInfo(
    name="fashion_mnist",
    input_shape=(1, 28, 28),
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    sizes={"train": 60_000, "test": 10_000},
    availability={"train": "found or fetched", "test": "shipped"},
    source="https://github.com/zalandoresearch/fashion-mnist",
    licence="MIT, Copyright (c) 2017 Zalando SE",
    load_raw=load_raw,
)

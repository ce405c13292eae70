"""CIFAR-100: 32 x 32 colour images of a hundred kinds of things, labelled by their fine classes."""

from __future__ import annotations

from pathlib import Path

from robustbench_dyn.datasets.cifar import CifarSet, read_or_fetch
from robustbench_dyn.datasets.dataset import DatasetInfo, RawSplit, Split
from robustbench_dyn.datasets.published import (
    CIFAR100,
    CIFAR100_ARCHIVE,
    CIFAR100_ARCHIVE_MIRRORS,
)


def load_raw(split: Split, data_dir: Path | None) -> RawSplit:
    """Find or fetch a split; x is (n, 3, 32, 32). Raises what read_or_fetch raises."""
    cifar = CifarSet(CIFAR100, CIFAR100_ARCHIVE, CIFAR100_ARCHIVE_MIRRORS, labels="fine_labels")
    return read_or_fetch(cifar, split, data_dir)


_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain
plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

INFO = DatasetInfo(
    name="cifar100",
    input_shape=(3, 32, 32),
    class_names=tuple(name.replace("_", " ") for name in _NAMES.split()),
    sizes={"train": 50_000, "test": 10_000},
    availability={"train": "found or fetched", "test": "found or fetched"},
    source="https://www.cs.toronto.edu/~kriz/cifar.html",
    licence="none stated; cite Krizhevsky, Learning Multiple Layers of Features, 2009",
    load_raw=load_raw,
)

"""The files that data sets fetch: where they are published, their sizes and their checksums.

No file is used before its checksum is right, wherever it comes from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import PurePosixPath

from robustbench_dyn.datasets.dataset import Split


@dataclass(frozen=True)
class PublishedFile:
    """A file, uncompressed: its name, its length, its SHA-256, and its shape if it is IDX.

    is_exact: whether n_bytes is its length, and not only more than that.
    """

    name: str
    n_bytes: int
    sha256: str
    shape: tuple[int, ...] = ()
    is_exact: bool = True


@dataclass(frozen=True)
class PublishedSet:
    """The files of a data set.

    title: its name in messages. folder: where the files lie below a root, as torchvision has them.
    files: of each split. mirrors: addresses that serve each file as NAME.gz, first choice first.
    """

    title: str
    folder: PurePosixPath
    files: dict[Split, tuple[PublishedFile, ...]]
    mirrors: tuple[str, ...] = ()


def idx_file(name: str, shape: tuple[int, ...], sha256: str) -> PublishedFile:
    """Describe an IDX file: magic number, one word an axis, then one byte an element."""
    return PublishedFile(name, 4 + 4 * len(shape) + math.prod(shape), sha256, shape)


# Mirrors compress the same content to different .gz files, so the content is what is checked.
FASHION_MNIST = PublishedSet(
    title="Fashion-MNIST",
    folder=PurePosixPath("FashionMNIST/raw"),
    files={
        "train": (
            idx_file(
                "train-images-idx3-ubyte",
                (60_000, 28, 28),
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            idx_file(
                "train-labels-idx1-ubyte",
                (60_000,),
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
        ),
        "test": (
            idx_file(
                "t10k-images-idx3-ubyte",
                (10_000, 28, 28),
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
            idx_file(
                "t10k-labels-idx1-ubyte",
                (10_000,),
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        ),
    },
    mirrors=(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    ),
)

MNIST = PublishedSet(
    title="MNIST",
    folder=PurePosixPath("MNIST/raw"),
    files={
        "train": (
            idx_file(
                "train-images-idx3-ubyte",
                (60_000, 28, 28),
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            idx_file(
                "train-labels-idx1-ubyte",
                (60_000,),
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
        ),
        "test": (
            idx_file(
                "t10k-images-idx3-ubyte",
                (10_000, 28, 28),
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            idx_file(
                "t10k-labels-idx1-ubyte",
                (10_000,),
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
    },
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
)

# Both splits are rows of these; see digits.
DIGITS = (
    idx_file(
        "digits-images-idx3-ubyte",
        (1_797, 8, 8),
        "359cd13f0f514122884198b78a131df597421cbf5e93a76678fa96fc548f0d96",
    ),
    idx_file(
        "digits-labels-idx1-ubyte",
        (1_797,),
        "ce71631c1f31ce56fa54f31d1d498fafacff59b001e6c30c4a5e29508aa277ad",
    ),
)

CIFAR10 = PublishedSet(
    title="CIFAR-10",
    folder=PurePosixPath("cifar-10-batches-py"),
    files={
        "train": (
            PublishedFile(
                "data_batch_1",
                31_035_704,
                "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
            ),
            PublishedFile(
                "data_batch_2",
                31_035_320,
                "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
            ),
            PublishedFile(
                "data_batch_3",
                31_035_999,
                "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
            ),
            PublishedFile(
                "data_batch_4",
                31_035_696,
                "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
            ),
            PublishedFile(
                "data_batch_5",
                31_035_623,
                "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
            ),
        ),
        "test": (
            PublishedFile(
                "test_batch",
                31_035_526,
                "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
            ),
        ),
    },
)

CIFAR10_ARCHIVE = PublishedFile(
    "cifar-10-python.tar.gz",
    170_498_071,
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
)
CIFAR10_ARCHIVE_MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)

CIFAR100 = PublishedSet(
    title="CIFAR-100",
    folder=PurePosixPath("cifar-100-python"),
    files={
        "train": (
            PublishedFile(
                "train",
                155_249_918,
                "735e79b04f092ca3d2e6d07f368c0a7d70d48c48d28865950cc24454cf45129b",
            ),
        ),
        "test": (
            PublishedFile(
                "test",
                # Its length is not published with its checksum, which decides.
                33_000_000,
                "4b67687d9933c4db8f0831104447f15b93774f4f464bd0516f0f0f2ac83b7864",
                is_exact=False,
            ),
        ),
    },
)

CIFAR100_ARCHIVE = PublishedFile(
    "cifar-100-python.tar.gz",
    169_001_437,
    "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
)
CIFAR100_ARCHIVE_MIRRORS = CIFAR10_ARCHIVE_MIRRORS

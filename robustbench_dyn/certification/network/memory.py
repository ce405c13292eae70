"""Memory that a network writes into: which traced number lies in which place.

Tensors share memory: views of one another, and what is written through one of them, all others
read. A value that an operation returns is known as a whole, until something is written into its
memory. From then on each place there is known by itself: as a number of one of the values that were
traced, or as a constant. Whatever reads that memory afterwards, by whatever view, is put together
from these.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_dyn.certification.network.trace import DerivedRef, NodeRef
from robustbench_dyn.errors import CertificateError

Reference = NodeRef | DerivedRef
# The operation that puts numbers of several values together.
ASSEMBLED = "assembled"
# Stands in origins for numbers that depend on neither the input nor a parameter.
CONSTANT = -1


class Origin(NamedTuple):
    """Where the numbers of a tensor come from, both of its shape, int64.

    source: the index of a value in Memory.sources, or CONSTANT. place: of the number in it, in the
    order of its entries.
    """

    source: Tensor
    place: Tensor


class Source(NamedTuple):
    """A value whose numbers may lie anywhere in memory."""

    reference: Reference
    shape: tuple[int, ...]


class _Known(NamedTuple):
    """A tensor that is known as a whole, where it lies at an address.

    Its `data` may be replaced, by which it lies elsewhere.
    """

    reference: Reference
    address: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Strides(NamedTuple):
    """The places of a tensor's numbers in its region."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def of(self, places: Tensor) -> Tensor:
        return places.as_strided(self.shape, self.stride, self.offset)


@dataclass
class _Region:
    """The memory of one storage, from `start`, of numbers of `itemsize` bytes.

    wholes: the values that lie there as a whole, in the order in which they were computed, with
    their sources. tensors: the identities of those that are known as a whole. origin: that of every
    place, where something was written.
    """

    start: int
    size: int
    itemsize: int
    wholes: list[tuple[_Strides, int]] = field(default_factory=list)
    tensors: list[int] = field(default_factory=list)
    origin: Origin | None = None
    written: bool = False

    def strides(self, tensor: Tensor) -> _Strides:
        """Return where a tensor lies; raises CertificateError where it is not within the region."""
        offset, rest = divmod(_address(tensor) - self.start, self.itemsize)
        shape, stride = tuple(tensor.shape), tuple(tensor.stride())
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if rest or last >= self.size or tensor.element_size() != self.itemsize:
            raise CertificateError(
                "the network reads its numbers as bits, or memory beyond them; bounds cannot "
                "follow that"
            )
        return _Strides(shape, stride, offset)

    def origins(self) -> Origin:
        """Return the origin of every place."""
        if self.origin is None:
            # Values without writes in between agree where they share memory.
            source, place = (torch.full((self.size,), CONSTANT) for _ in range(2))
            for strides, value in reversed(self.wholes):
                strides.of(source)[...] = value
                strides.of(place).copy_(entries(strides.shape))
            self.origin = Origin(source, place)
        return self.origin


class Memory:
    """The memory of all traced values.

    sources: the values that Origins speak of.
    """

    def __init__(self) -> None:
        self.sources = list[Source]()
        self._starts = list[int]()
        self._regions = dict[int, _Region]()
        self._whole = dict[int, _Known]()
        # Alive, so that neither memory nor an identity is given twice.
        self._kept = list[Tensor]()

    def add(self, tensor: Tensor, reference: Reference) -> None:
        """Note that a tensor as a whole is the value of a reference, as long as none is written."""
        self._whole[id(tensor)] = _known(tensor, reference)
        self._kept.append(tensor)
        if tensor.numel():
            region = self._region(tensor) or self._new_region(tensor)
            region.wholes.append((region.strides(tensor), self._source(reference, tensor)))
            region.tensors.append(id(tensor))
            if not region.written:
                region.origin = None

    def whole(self, tensor: Tensor) -> Reference | None:
        """Return the reference of a tensor that is known as a whole."""
        known = self._whole.get(id(tensor))
        same = known is not None and known == _known(tensor, known.reference)
        return known.reference if known is not None and same else None

    def holds(self, tensor: Tensor) -> bool:
        """Say whether a tensor lies in memory where traced values are, or were."""
        return bool(tensor.numel()) and self._region(tensor) is not None

    def written(self, tensor: Tensor) -> bool:
        """Say whether something was written into the memory of a tensor."""
        region = self._region(tensor) if tensor.numel() else None
        return region is not None and region.written

    def origin(self, tensor: Tensor) -> Origin:
        """Return where the numbers of a tensor come from."""
        region = self._region(tensor) if tensor.numel() else None
        if region is None:
            return _constant(tensor)
        strides = region.strides(tensor)
        return Origin(*(strides.of(part) for part in region.origins()))

    def overlap(self, one: Tensor, other: Tensor) -> bool:
        """Say whether two tensors share some of their places, and do not lie alike."""
        if not one.numel() or not other.numel():
            return False
        region = self._region(one)
        if region is None or region is not self._region(other):
            return False
        first, second = region.strides(one), region.strides(other)
        if first == second:
            return False
        places = entries((region.size,))
        return bool(torch.isin(first.of(places).flatten(), second.of(places).flatten()).any())

    def sole_source(self, origin: Origin) -> Reference | None:
        """Return the value that the origin is of as a whole, in its order and shape."""
        code = int(origin.source.flatten()[0]) if origin.source.numel() else CONSTANT
        if code == CONSTANT or origin.source.shape != self.sources[code].shape:
            return None
        same = bool((origin.source == code).all())
        if same and torch.equal(origin.place, entries(origin.place.shape)):
            return self.sources[code].reference
        return None

    def write(self, tensor: Tensor, value: Reference | Origin | None) -> None:
        """Note that a value was written into a tensor: a traced one, numbers, or a constant."""
        if not tensor.numel():
            return
        region = self._region(tensor) or self._new_region(tensor)
        strides = region.strides(tensor)
        self._kept.append(tensor)
        for known in region.tensors:
            self._whole.pop(known, None)
        region.tensors = []
        if isinstance(value, (NodeRef, DerivedRef)):
            code = self._source(value, tensor)
            if tensor.is_contiguous() and tensor.numel() == region.size:
                region.wholes, region.origin, region.written = [(strides, code)], None, False
                region.tensors = [id(tensor)]
                self._whole[id(tensor)] = _known(tensor, value)
                return
            value = Origin(torch.full(tensor.shape, code), entries(tensor.shape))
        value = _constant(tensor) if value is None else value
        source, place = region.origins()
        # A copy: the numbers may come from the same memory.
        value = Origin(*(part.expand(tensor.shape).clone() for part in value))
        strides.of(place).copy_(entries(tensor.shape))
        if not torch.equal(strides.of(place), entries(tensor.shape)):
            raise CertificateError("the network writes into a tensor that overlaps with itself")
        strides.of(source).copy_(value.source)
        strides.of(place).copy_(value.place)
        region.wholes, region.written = [], True

    def _source(self, reference: Reference, tensor: Tensor) -> int:
        self.sources.append(Source(reference, tuple(tensor.shape)))
        return len(self.sources) - 1

    def _region(self, tensor: Tensor) -> _Region | None:
        address = _address(tensor)
        k = bisect_right(self._starts, address) - 1
        region = self._regions[self._starts[k]] if k >= 0 else None
        return region if region is not None and address < _end(region) else None

    def _new_region(self, tensor: Tensor) -> _Region:
        (start, size), itemsize = storage_of(tensor), tensor.element_size()
        k = bisect_right(self._starts, start + size - 1)
        if k and _end(self._regions[self._starts[k - 1]]) > start:
            raise CertificateError("the network shares memory outside of torch")
        insort(self._starts, start)
        self._regions[start] = _Region(start, size // itemsize, itemsize)
        return self._regions[start]


def entries(shape: Sequence[int]) -> Tensor:
    """Return the places of a tensor's entries in their order."""
    return torch.arange(torch.Size(shape).numel()).view(tuple(shape))


def assembled(places: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """Return the numbers at some places of several values behind one another."""
    return torch.cat([part.flatten() for part in parts])[places.to(parts[0].device)]


def storage_of(tensor: Tensor) -> tuple[int, int]:
    """Return the address of a tensor's storage, and its bytes."""
    # The network does not read what is looked up here.
    with torch._C.DisableTorchFunction():
        storage = tensor.untyped_storage()
        return storage.data_ptr(), storage.nbytes()


def _address(tensor: Tensor) -> int:
    with torch._C.DisableTorchFunction():
        return tensor.data_ptr()


def _known(tensor: Tensor, reference: Reference) -> _Known:
    return _Known(reference, _address(tensor), tuple(tensor.shape), tuple(tensor.stride()))


def _end(region: _Region) -> int:
    return region.start + region.size * region.itemsize


def _constant(tensor: Tensor) -> Origin:
    nothing = torch.full(tensor.shape, CONSTANT)
    return Origin(nothing, nothing)

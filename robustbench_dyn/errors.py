"""The errors that a user can cause; each message says what was given, the rule, and the way out."""

import reprlib


class DynbenchError(Exception):
    """Base of every error whose message is written for the user; the CLI prints it and exits 2."""


class InputError(DynbenchError, ValueError):
    """An argument, tensor or file breaks a rule."""


class ShapeError(InputError):
    """Tensors that must agree in shape do not."""


class DataUnavailableError(DynbenchError):
    """A data set or a checkpoint is neither shipped, nor on this machine, nor downloadable."""


class IntegrityError(DynbenchError):
    """A file is not the file that its checksum or format promises."""


class OutputError(DynbenchError):
    """A file cannot be written."""


class TrainingError(DynbenchError):
    """A training diverged: its loss or a weight is not finite."""


class RegistryError(DynbenchError):
    """A plugin is unknown, broken, or named twice."""


class ForeignCodeError(DynbenchError):
    """Code from outside of this package broke a limit, or ended the process that it runs in."""


class CertificateError(DynbenchError):
    """A certifier cannot say anything about this model."""


class MachineError(DynbenchError):
    """Memory, the disk, a thread or a process failed; the same command may succeed later."""


class StoreError(DynbenchError):
    """The store cannot be opened, read or written."""


class SoundnessError(Exception):
    """An attack landed inside a ball that a deterministic certificate calls safe.

    Never the user's mistake: either the certificate or the model's evaluation is wrong.
    counterexamples: one dict each, with example_id, certified_radius, adversarial_distance, path.
    """

    def __init__(self, message: str, counterexamples: list[dict[str, object]]) -> None:
        super().__init__(message)
        self.counterexamples = counterexamples


def printable(text: str) -> str:
    """Return a text with all characters escaped that a terminal may obey, but for line breaks."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def one_line(text: str, *, most: int = 200) -> str:
    """Return a text in one line, cut after `most` characters."""
    line = " ".join(text[: 20 * most].split())
    return line if len(line) <= most else f"{line[:most]}..."


def shown(value: object, *, most: int = 80) -> str:
    """Return repr(value), for a message, in at most about `most` characters.

    It takes no time for a value of any size or depth, and does not fail where repr does.
    """
    return one_line(_Shown(most).repr(value), most=most)


class _Shown(reprlib.Repr):
    """A repr that looks at the first few entries of the outer levels alone."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, most, most

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write integers of thousands of digits.
        if x.bit_length() > 256:
            return f"an integer of {x.bit_length():,} bits"
        return super().repr_int(x, level)

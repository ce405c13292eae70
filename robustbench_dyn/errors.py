"""The errors that a user can cause; each message says what was given, the rule, and the way out."""


class DynbenchError(Exception):
    """Base of every error whose message is written for the user; the CLI prints it and exits 2."""


class InputError(DynbenchError, ValueError):
    """An argument, tensor or file breaks a rule."""


class ShapeError(InputError):
    """Tensors that must agree in shape do not."""


class DataUnavailableError(DynbenchError):
    """A data set is neither shipped, nor on this machine, nor downloadable."""


class IntegrityError(DynbenchError):
    """A file is not the file that its checksum or format promises."""


class OutputError(DynbenchError):
    """A file cannot be written."""


class RegistryError(DynbenchError):
    """A plugin is unknown, broken, or named twice."""


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

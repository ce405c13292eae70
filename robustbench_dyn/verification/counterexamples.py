"""Counterexamples that a replay finds, in files that `dynbench verify --evidence` takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robustbench_dyn.errors import OutputError
from robustbench_dyn.files import replacing
from robustbench_dyn.names import file_name, inside
from robustbench_dyn.results.evidence import Evidence
from robustbench_dyn.results.verdicts import Verdict


def save_counterexample(
    folder: Path | None, evidence: Evidence, found: Verdict, *, input_shape: tuple[int, ...]
) -> str:
    """Write an adversarial example as .npz; return its path, or nothing where none is written.

    found: the verdict that a replay came to. The file has what submissions.read takes.
    """
    if folder is None or found.x_adv is None:
        return ""
    spec = evidence.record.spec
    x_adv = np.frombuffer(found.x_adv, dtype="<f4").reshape(input_shape)
    name = file_name(
        spec.model,
        spec.norm,
        f"{evidence.eps:g}",
        str(found.example_id),
        suffix=".npz",
    )
    path = inside(folder, name)
    try:
        with replacing(path) as partial:
            np.savez(
                partial,
                x_adv=x_adv[None],
                example_id=np.array([found.example_id]),
                model=np.array(spec.model),
                seed=np.array(spec.seed),
                weights_sha256=np.array(spec.weights_sha256),
            )
    except OutputError:
        return ""
    return str(path)

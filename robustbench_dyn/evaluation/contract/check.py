"""The check of an architecture by all rules of the contract, at its weights or as it is built."""

from __future__ import annotations

from collections.abc import Iterator

from robustbench_dyn.datasets import load_dataset
from robustbench_dyn.datasets.dataset import is_name_of_files
from robustbench_dyn.errors import InputError, IntegrityError, one_line
from robustbench_dyn.evaluation.contract import behaviour, outputs
from robustbench_dyn.evaluation.contract.claims import CARD, CERTIFICATES, COST, properties
from robustbench_dyn.evaluation.contract.rules import ModelFinding, Subject
from robustbench_dyn.models.architectures import Architecture
from robustbench_dyn.models.loading import load_weights
from robustbench_dyn.models.machine_errors import is_machine_error
from robustbench_dyn.properties.architectures import dataset_of_test, fresh_model

BEFORE_CLAIMS = (CARD, *outputs.RULES, *behaviour.RULES)
AFTER_CLAIMS = (CERTIFICATES, COST)
RULES = (*BEFORE_CLAIMS, *AFTER_CLAIMS)
_WEIGHTS = "a safetensors file with the SHA-256 of the card, whose tensors fit the network"


def subject_of(
    architecture: Architecture,
    *,
    dataset: str | None = None,
    variant: str = "",
    n_examples: int = 4,
) -> Subject | ModelFinding:
    """Return the network to test, or the finding that its weights are not those of its card.

    dataset and variant: at which weights; by default the first data set of the card that is not of
    files, which lie somewhere, and without such weights that of a recipe. Raises InputError where
    there are no such weights, RegistryError where the network cannot be built.
    """
    name = dataset or dataset_of_test(architecture)
    data = load_dataset(name, n_examples=n_examples)
    trained = architecture.card.weights
    if not trained or (dataset is None and all(is_name_of_files(w.dataset) for w in trained)):
        model = fresh_model(architecture, tuple(data.x.shape[1:]), data.n_classes)
        return Subject(architecture, None, data, model)
    weights = architecture.weights_for(data.name, variant=variant)
    try:
        model = load_weights(architecture, weights)
    except IntegrityError as error:
        return ModelFinding(
            "weights",
            False,
            one_line(str(error), most=400),
            _WEIGHTS,
            "train again with --install, or correct sha256 and options in card.yaml",
        )
    return Subject(architecture, weights, data, model)


def check_model(subject: Subject) -> Iterator[ModelFinding]:
    """Yield a finding for each rule; after a broken rule that all others need, no more.

    The model is not changed.
    """
    if subject.weights is not None:
        found = f"{subject.weights.file} has the SHA-256 of the card, and fits the network"
        yield ModelFinding("weights", True, found, _WEIGHTS, "")
    for rule in BEFORE_CLAIMS:
        finding = rule.check(subject)
        yield finding
        if rule.needed and not finding.holds:
            found = f"they mean nothing before {rule.name!r} holds"
            yield ModelFinding("all others", None, found, "", "")
            return
    try:
        yield from properties(subject)
    # The claims are methods of any code.
    except Exception as error:
        if is_machine_error(error):
            raise
        reason = f"{type(error).__name__}: {error}"
        yield ModelFinding(
            "properties",
            False,
            one_line(str(error) if isinstance(error, InputError) else f"it raises {reason}"),
            "claims of parts that exist, and can be tested in float64",
            "name a part as in model.named_modules()",
        )
    for rule in AFTER_CLAIMS:
        yield rule.check(subject)

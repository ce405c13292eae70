"""Flags: what runs find out about a model. They are results, and no verdict's key depends on them.

A flag is a name, or NAME:VALUE in a row. docs/flags.md lists all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

RANDOM = "random_outputs"
COUPLED = "batch_coupled"
GRAD_MODE = "depends_on_grad_mode"
CHANGED = "changed_during_run"
WRITES_INTO_INPUT = "writes_into_input"
SOFTMAX_OUTPUTS = "softmax_outputs"
# Outputs with which gradients say little: their differences are lost in rounding, or most of them
# do not change with small changes of the input.
TINY_LOGITS = "tiny_logits"
PIECEWISE_CONSTANT = "piecewise_constant"
NO_GRADIENTS = "no_gradients"
# The attributes of the model changed during a run, such as a counter or a memory.
KEEPS_STATE = "keeps_state"
# A certificate rests on a bound that a module states of itself; such a bound was found wrong.
SELF_DECLARED = "self_declared_bound"
REFUTED_BOUND = "refuted_bound"
# Attacks ran, and none of them on a certified example, or none of those to its end.
NOT_AUDITED = "not_audited"
CERTIFIED_ELSEWHERE = "certified_in_plugin_process"

# With one of these flags no certificate counts.
NOT_A_FUNCTION = frozenset({RANDOM, COUPLED, GRAD_MODE, CHANGED})


class Meaning(NamedTuple):
    """What a flag means, and what it asks for where it keeps a row from being ranked."""

    meaning: str
    asks_for: str = ""


_NO_FUNCTION = "a model whose logits depend on its input alone"
_ON_SIGNS = "attacks without gradients: a whole suite, which adds them on signs"
_SURROGATE = "surrogates(), a differentiable stand-in that the attack transfer can use"

# Each flag of a row, by its name; * stands for the name of an attack.
FLAGS: Final[Mapping[str, Meaning]] = {
    "attack_failed": Meaning(
        "the attack raised an error on so many examples", "the attack to end on some examples"
    ),
    "unattacked": Meaning(
        "no attack ran to its end on so many examples, which count as robust",
        "an attack that ends on each example",
    ),
    "certifier_failed": Meaning(
        "the certifier raised an error on so many examples; without a number, before the first",
        "a certifier that runs, or a choice of certifiers without it",
    ),
    "within_rounding": Meaning(
        "nothing is proved for so many examples, because rounding may exceed a margin"
    ),
    WRITES_INTO_INPUT: Meaning("the forward pass writes into its input; here it got copies"),
    "errors": Meaning("the logits of so many examples are not finite; they count as wrong"),
    RANDOM: Meaning(
        "two passes on the same batch differ", "attacks in expectation: a whole suite, or rand"
    ),
    COUPLED: Meaning("logits depend on the other examples of the batch", "--batch-size 1"),
    GRAD_MODE: Meaning("logits depend on whether gradients are recorded", _NO_FUNCTION),
    CHANGED: Meaning("the logits at the end of the run differ from those before", _NO_FUNCTION),
    KEEPS_STATE: Meaning("the model's attributes changed during the run"),
    CERTIFIED_ELSEWHERE: Meaning(
        "certifiers ran in the process of a plugin, which may state any radius",
        "--trust, once the plugin's code was read",
    ),
    SELF_DECLARED: Meaning("a certificate rests on a bound that a class states of itself"),
    REFUTED_BOUND: Meaning(
        "a bound that a class states of itself is wrong; nothing is proved from it",
        "a bound that holds",
    ),
    NOT_AUDITED: Meaning(
        "attacks ran, but none of them on a certified example", "an audit_share above 0"
    ),
    TINY_LOGITS: Meaning(
        "logits differ by less than 1e-4, so that losses may underflow", _ON_SIGNS
    ),
    PIECEWISE_CONSTANT: Meaning(
        "most logits do not change with a change of the input below a grey level", _SURROGATE
    ),
    NO_GRADIENTS: Meaning("no logit has a finite gradient other than zero", _SURROGATE),
    SOFTMAX_OUTPUTS: Meaning("the outputs are probabilities, whose gradients vanish", _ON_SIGNS),
    "white_box_failed": Meaning(
        "so many white-box attacks raised an error on every example", "white-box attacks that end"
    ),
    "hits_inside_radius": Meaning(
        "an attack refuted so many probabilistic certificates",
        "more noisy copies, or a lower alpha",
    ),
    "zero_gradients": Meaning("this share of examples has no usable gradient", _ON_SIGNS),
    "wrong_gradients": Meaning("this share of gradients does not predict the loss", _ON_SIGNS),
    "accuracy_at_large_eps": Meaning(
        "this share of examples stands at an eps where none can", _ON_SIGNS
    ),
    "*_beats_white_box": Meaning(
        "an attack without gradients broke so many examples that white-box attacks did not",
        _ON_SIGNS,
    ),
    # Known of a row once it is published.
    "property_failed": Meaning(
        "a declared property was measured and does not hold",
        "a card without it, or a model with it",
    ),
    "no_training_record": Meaning(
        "no recipe of the weights is known", "weights with a recipe in the card of their plugin"
    ),
    "no_evidence": Meaning(
        "the verdicts behind the row are not published", "a run whose evidence is published"
    ),
    "no_attack": Meaning("no attack was run", "--attacks standard"),
}


def name_of(flag: str) -> str:
    """Return the name of a flag in FLAGS; empty for none."""
    name = flag.partition(":")[0]
    if name.endswith("_beats_white_box"):
        return "*_beats_white_box"
    return name if name in FLAGS else ""


def unknown_flags(text: str) -> list[str]:
    """Return the flags of a row that no version of this package sets."""
    return [flag for flag in text.split() if not name_of(flag)]

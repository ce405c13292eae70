"""Records of evaluations, for tests that need one and do not care what it says."""

from robustbench_dyn.results.spec import EvaluationSpec, Record, StageSpec


def stages(*names, **facts):
    return tuple(StageSpec(name=name, label=name, **facts) for name in names)


def record(model="m", *, attacks=("pgd",), certifiers=(), on_signs=(), **facts):
    """Return the record of an evaluation by attacks and certifiers of these names."""
    values = {"dataset": "digits", "norm": "L2"} | facts
    run = (*stages(*attacks), *stages(*on_signs, only_on_signs=True, gradient_free=True))
    return Record(
        spec=EvaluationSpec(
            model=model,
            attacks=run,
            attacks_if_random=run,
            certifiers=stages(*certifiers),
            **values,
        )
    )

"""The findings of a check."""

from __future__ import annotations

from robustbench_dyn.plugins.contract import Finding


class Findings:
    """Collects findings: a rule is kept until a first violation is noted."""

    def __init__(self, *rules: str) -> None:
        self._violations = dict.fromkeys(rules, "")

    def expect(self, rule: str, kept: bool, violation: str) -> None:
        """Note a violation of a rule, unless it was kept or violated before."""
        if not kept and not self._violations[rule]:
            self._violations[rule] = violation

    def list(self) -> list[Finding]:
        """Return a finding for each rule, in their order."""
        return [Finding(rule, not why, why) for rule, why in self._violations.items()]

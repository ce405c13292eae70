"""The contracts of certifiers and of handlers of operations, checked on small examples.

The checks search for violations and prove nothing; each returns findings, and prints nothing.
"""

from robustbench_dyn.certification.contract.certifiers import check_certifier
from robustbench_dyn.certification.contract.controls import (
    certifier_controls,
    operation_controls,
)
from robustbench_dyn.certification.contract.operations import check_operation

__all__ = ["certifier_controls", "check_certifier", "check_operation", "operation_controls"]

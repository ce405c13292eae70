"""The contracts of certifiers and of operation handlers, checked on small examples.

The checks search for violations and prove nothing; each returns findings, and prints nothing.
"""

from robustbench_dyn.certification.contract.certifiers import check_certifier
from robustbench_dyn.certification.contract.findings import Finding
from robustbench_dyn.certification.contract.operations import check_operation

__all__ = ["Finding", "check_certifier", "check_operation"]

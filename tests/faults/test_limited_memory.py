"""A run whose address space is limited: it concludes nothing from what it cannot allocate."""

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from robustbench_dyn.results.store import Store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc are Linux's"),
]

# A convolution of oneDNN, whose scratch memory a limit hits first.
RUN = """
import resource, sys, time
from pathlib import Path
import torch
from torch import nn
from robustbench_dyn import ThreatModel, evaluate
from robustbench_dyn.errors import DynbenchError
generator = torch.Generator().manual_seed(0)
class Net(nn.Module):
    # No known layers, so that no Lipschitz bound is computed.
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 48, 5, padding=2), nn.Conv2d(48, 48, 5, padding=2)
        self.last = nn.Linear(48 * 16, 10)
    def forward(self, x):
        hidden = self.two(self.one(x).relu()).relu()
        return self.last(nn.functional.avg_pool2d(hidden, 4).flatten(1))
model = Net().eval()
for weight in model.parameters():
    weight.data = 0.08 * torch.randn(weight.shape, generator=generator)
x = torch.rand(24, 1, 16, 16, generator=generator)
y = model(x).argmax(dim=1)
def go(store):
    evaluate(
        model, (x, y), ThreatModel("L2", 0.3), attacks="apgd-ce", certifiers="none",
        batch_size=24, store=store, name="cnn",
    )
if sys.argv[2] != "none":
    import robustbench_dyn.evaluation.api, pandas, scipy.stats
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + int(float(sys.argv[2]) * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    go(Path(sys.argv[1]))
except DynbenchError as error:
    print(error)
    sys.exit(2)
"""


def run(store, limit):
    return subprocess.run(
        [sys.executable, "-c", RUN, str(store), limit],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def states(path):
    """Return all that verdicts say, but for what a repeated batch adds to."""
    free = ("seconds", "forward_passes", "backward_passes", "x_adv", "adversarial_distance")
    store = Store(Path(path))
    verdicts = [asdict(v) for key in store.records() for v in store.verdicts(key)]
    store.close()
    return [{k: repr(v) for k, v in verdict.items() if k not in free} for verdict in verdicts]


def test_a_limit_leaves_no_wrong_verdict_behind(tmp_path):
    quiet = tmp_path / "quiet.sqlite"
    assert run(quiet, "none").returncode == 0
    expected, codes = states(quiet), []
    assert {verdict["status"] for verdict in expected} > {"<Status.BROKEN: 'broken'>"}
    for limit in ("8", "20"):
        path = tmp_path / f"{limit}.sqlite"
        limited = run(path, limit)
        codes.append(limited.returncode)
        # A signal: compiled code gave up by itself, as a kill would.
        assert limited.returncode in (0, 2) or limited.returncode < 0, limited.stderr
        if limited.returncode == 2:
            assert "machine failed" in limited.stdout or "store" in limited.stdout, limited.stdout
        if path.exists():
            assert all(state in expected for state in states(path) if state["next_stage"] == "''")
            if limited.returncode == 0:
                assert states(path) == expected
        assert run(path, "none").returncode == 0
        assert states(path) == expected
    # The limits were within reach of the run: some failed.
    assert any(codes), codes

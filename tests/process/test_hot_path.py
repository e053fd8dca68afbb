"""The hot path stays what it is: a few dict look-ups."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_hot_path_keeps_its_ratio_to_a_dict_look_up():
    """In a process of its own: pytest-benchmark does not measure beside pytest-xdist."""
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-o", "filterwarnings=", "benchmarks/guard.py"]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout

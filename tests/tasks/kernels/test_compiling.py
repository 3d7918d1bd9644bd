"""What compiling the passes makes, and what it does not make twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ALL_PARTS = """
import json, sys
import numpy as np
from numba import types
from numba.core.dispatcher import Dispatcher
from tasks import kernels
from tasks.objectives.losses import LogisticLoss

rows = LogisticLoss(), np.ones((1, 1)), np.ones(1), None, np.array([0, 1]), np.ones((1, 1)), np.zeros(1), 1
kernels.loss_and_gradient(*rows)
kernels.hessian(*rows, True)

modules = [vars(module) for name, module in sys.modules.items() if name.startswith("tasks.kernels.")]
functions = {each for module in modules for each in module.values() if isinstance(each, Dispatcher)}
found = [
    (
        function.__name__,
        any(isinstance(argument, types.Literal) for argument in signature),
        made.library.get_pointer_to_function(made.fndesc.llvm_func_name) != 0,
    )
    for function in functions
    if function.targetoptions.get("forceinline")
    for signature, made in function.overloads.items()
]
print(json.dumps(found))
"""


@pytest.mark.long
def test_parts_are_compiled_for_no_known_number_and_have_no_machine_code(tmp_path: Path) -> None:
    """A pass has all that it calls; a known number, as 0 is, would have a function compiled once more."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}  # nothing comes from disk
    command = [sys.executable, "-c", ALL_PARTS]
    found = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=300).stdout)
    assert {"add_gradient", "add_rows", "add_gram", "push"} <= {name for name, _, _ in found}
    assert [name for name, of_number, _ in found if of_number] == []
    assert [name for name, _, machine_code in found if machine_code] == []

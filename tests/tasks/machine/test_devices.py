"""Each worker process takes one GPU; none is needed to see it choose."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import connect
from pipeline.cluster.gpus import local_gpus, parse_listing
from tasks.machine.devices import own_device, visible_devices

pytestmark = pytest.mark.timeout(60)

LISTING = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef)
  MIG 3g.20gb     Device  1: (UUID: MIG-cba663e8)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-b3a1f3f0)
"""


@pytest.mark.parametrize(
    ("name", "devices", "expected"),
    [
        ("1", ["3", "5"], "5"),
        ("SLURMCluster-4-0", ["3", "5"], "3"),
        ("SLURMCluster-4-1", ["3", "5"], "5"),
        ("SLURMCluster-3", ["7"], "7"),  # one process a job, numbered through over jobs
        ("SLURMCluster-r2", ["7"], "7"),
        ("tcp://10.0.0.1:40000", ["7", "8"], "7"),
        ("1", [], None),
    ],
)
def test_the_number_of_a_worker_is_that_of_its_device(name: str, devices: list[str], expected: str | None) -> None:
    assert own_device(name, devices) == expected


def test_devices_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert local_gpus() == visible_devices() == ["3", "5"]
    assert parse_listing(LISTING) == ["MIG-c6d4f1ef", "MIG-cba663e8", "GPU-b3a1f3f0"]
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        with pytest.raises(ValueError, match=r"this machine has no GPU \(CUDA_VISIBLE_DEVICES lists none\); leave gpu out"):
            connect(gpu=True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"no GPU \(nvidia-smi lists none\)"):
        connect(gpu=True)


@pytest.mark.long
def test_one_worker_a_gpu_also_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with connect(gpu=True) as connection:
        assert connection.client is not None
        for _ in range(2):
            assert sorted(connection.client.run(os.getenv, "CUDA_VISIBLE_DEVICES").values()) == ["3", "5"]
            connection.client.restart(timeout=30)
        assert [worker["nthreads"] for worker in connection.client.scheduler_info()["workers"].values()] == [1, 1]
    with pytest.raises(ValueError, match=r"n_workers=3 with gpu=True, and this machine has 2 GPUs"):
        connect(n_workers=3, gpu=True)
    with pytest.raises(ValueError, match="gpu=True is for workers that are started here"):
        connect("tcp://127.0.0.1:1", gpu=True)

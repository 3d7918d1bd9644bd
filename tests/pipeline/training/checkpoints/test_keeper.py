"""Checkpoints as files: which are written, which stay, which are refused, and what then."""

from __future__ import annotations

import dataclasses
import errno
import os
import random
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from pipeline import Checkpoint, CheckpointWarning
from pipeline.files.tensors import Digests
from pipeline.files.whole import HOST
from pipeline.training.checkpoints import keeper as module
from pipeline.training.checkpoints.files import CHECKPOINT, FitKey, Saved, read_checkpoint, write_checkpoint
from pipeline.training.checkpoints.keeper import Keeper
from pipeline.training.history import Row
from tasks.strategies.lbfgs import LBFGS

PROBLEM = FitKey({"estimator": "Some", "C": "1.0", "data": "7 rows"})


def row(number: int) -> Row:
    numbers = {"row_step": 1.0, "iteration": number, "objective": 1 / number, "gradient_norm": np.inf, "seconds": 0.1 * number}
    return Row(
        round=number, oracle="score", **numbers, subtree=number % 3 - 1, staleness=number % 2, bytes_sent=number, bytes_received=2 * number
    )  # type: ignore[typeddict-item]


def after(n_rounds: int, seed: int | None = None) -> Saved:
    """A fit after so many rounds."""
    state = LBFGS().init(np.full(300, float(n_rounds)))
    return Saved([state], [row(number) for number in range(1, n_rounds + 1)], seed, 11 * n_rounds)


def offer(keeper: Keeper, saved: Saved) -> None:
    """When the writer has rested, and wait for it."""
    keeper._rests_until = 0.0
    keeper.rest(saved)
    keeper._settle()


def found(directory: Path, problem: FitKey = PROBLEM, **options: Any) -> Saved | None:
    with Keeper(Checkpoint(directory=directory, **options), problem) as keeper:
        return keeper.load()


def names(directory: Path) -> list[str]:
    """Of what a user sees."""
    return sorted(path.name.rpartition("-")[2] for path in directory.iterdir() if not path.name.startswith("."))


def write(directory: Path, *rounds: int, problem: FitKey = PROBLEM) -> list[Path]:
    for n_rounds in rounds:
        write_checkpoint(problem.path(directory, n_rounds), problem, after(n_rounds))
    return [problem.path(directory, n_rounds) for n_rounds in rounds]


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    (path,) = write(tmp_path, 5)
    back, saved = read_checkpoint(path, PROBLEM), after(5)
    assert back.history == saved.history
    assert back.bytes_per_round == 55
    assert repr(back.states) == repr(saved.states)
    assert back.seed is None


def test_numbers_that_some_rounds_have_come_back_with_those(tmp_path: Path) -> None:
    """A file has them only where a round does."""
    saved = after(4)
    saved.history[2]["primal_residual"], saved.history[3]["dual_residual"] = 0.5, np.inf
    write_checkpoint(tmp_path / "x", PROBLEM, saved)
    assert read_checkpoint(tmp_path / "x", PROBLEM).history == saved.history
    write_checkpoint(tmp_path / "y", PROBLEM, after(4))
    for name, has_them in (("x", True), ("y", False)):
        with safe_open(tmp_path / name, "np") as file:
            assert ("history.primal_residual" in set(file.keys())) is has_them


def test_states_of_some_rounds_ago_have_the_rounds_up_to_there(tmp_path: Path) -> None:
    """Where what subtrees remember cannot be had, the last copy is saved."""
    with Keeper(Checkpoint(directory=tmp_path, every_rounds=2), PROBLEM) as keeper:
        offer(keeper, after(7)._replace(recall=lambda: after(5)))
    assert names(tmp_path) == ["000000005.safetensors"]
    back = found(tmp_path)
    assert back is not None
    assert repr(back.states) == repr(after(5).states) and back.history == after(5).history


def test_without_rounds_and_with_a_seed(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "x", PROBLEM, Saved([], [], 2**31 - 2, 0))
    assert read_checkpoint(tmp_path / "x", PROBLEM) == Saved([], [], 2**31 - 2, 0)


def test_the_last_two_stay_and_all_go_when_the_fit_is_done(tmp_path: Path) -> None:
    with Keeper(Checkpoint(directory=tmp_path, every_rounds=2), PROBLEM) as keeper:
        for n_rounds in range(1, 12):
            offer(keeper, after(n_rounds))
        assert names(tmp_path) == ["000000008.safetensors", "000000010.safetensors"]
        saved = after(11)
        keeper.end(saved, complete=False)
        assert names(tmp_path) == ["000000010.safetensors", "000000011.safetensors"]
        keeper.end(after(1), complete=True)
    assert list(tmp_path.iterdir()) == []


def test_later_ones_are_written_over_what_would_be_removed(tmp_path: Path) -> None:
    """Longer ones, too; shorter ones are new files, for a process that reads the old one has it mapped."""
    sizes = [300, 300, 300, 300, 500, 500, 100, 600]
    files = []
    with Keeper(Checkpoint(directory=tmp_path, every_rounds=1), PROBLEM) as keeper:
        for n_rounds, size in enumerate(sizes, 1):
            saved = after(n_rounds)._replace(states=[np.full(size, float(n_rounds))])
            offer(keeper, saved)
            path = PROBLEM.path(tmp_path, n_rounds)
            files.append(path.stat().st_ino)
            assert repr(read_checkpoint(path, PROBLEM)) == repr(saved)
        assert len(names(tmp_path)) == 2
    first, second, third, *later = files
    assert len({first, second, third}) == 3
    assert later[:3] == [first, second, third]
    assert later[3] not in {first, second, third}
    assert len(list(tmp_path.iterdir())) == 2


def test_one_that_is_being_read_is_not_cut_off(tmp_path: Path) -> None:
    with Keeper(Checkpoint(directory=tmp_path, every_rounds=1), PROBLEM) as keeper:
        offer(keeper, after(1)._replace(states=[np.ones(90_000)]))
        content = PROBLEM.path(tmp_path, 1).read_bytes()
        with PROBLEM.path(tmp_path, 1).open("rb") as file:
            for n_rounds in range(2, 8):
                offer(keeper, after(n_rounds))
            assert file.read() == content


def test_a_checkpoint_that_has_another_name_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with Keeper(Checkpoint(directory=tmp_path / "kept", every_rounds=1), PROBLEM) as keeper:
        offer(keeper, after(1))
        (tmp_path / "mine").hardlink_to(PROBLEM.path(tmp_path / "kept", 1))
        for n_rounds in range(2, 8):
            offer(keeper, after(n_rounds))
    assert len(read_checkpoint(tmp_path / "mine", PROBLEM).history) == 1
    assert [path.name for path in sorted((tmp_path / "kept").iterdir())] == [PROBLEM.path(tmp_path, n).name for n in (6, 7)]


def test_what_a_link_leads_to_is_never_written_over(tmp_path: Path) -> None:
    """A user has moved one to another disk."""
    elsewhere = tmp_path / "elsewhere"
    with Keeper(Checkpoint(directory=tmp_path / "kept", every_rounds=1), PROBLEM) as keeper:
        (tmp_path / "kept").mkdir()
        offer(keeper, after(1))
        PROBLEM.path(tmp_path / "kept", 1).rename(elsewhere)
        PROBLEM.path(tmp_path / "kept", 1).symlink_to(elsewhere)
        for n_rounds in range(2, 8):
            offer(keeper, after(n_rounds))
    assert len(read_checkpoint(elsewhere, PROBLEM).history) == 1
    assert [path.name for path in sorted((tmp_path / "kept").iterdir())] == [PROBLEM.path(tmp_path, n).name for n in (6, 7)]


def test_files_of_an_earlier_process_are_not_written_over(tmp_path: Path) -> None:
    """They may be of another user, and more people may be allowed to read them."""
    earlier = write(tmp_path, 1, 2)
    for path in earlier:
        path.chmod(0o444)
    with Keeper(Checkpoint(directory=tmp_path, every_rounds=1), PROBLEM) as keeper:
        keeper.load()
        for n_rounds in range(3, 8):
            offer(keeper, after(n_rounds))
            assert PROBLEM.path(tmp_path, n_rounds).stat().st_mode & 0o200
    assert names(tmp_path) == ["000000006.safetensors", "000000007.safetensors"]


def test_one_that_cannot_be_removed_costs_none_of_the_others(tmp_path: Path) -> None:
    earlier, _ = write(tmp_path, 1, 2)
    with Keeper(Checkpoint(directory=tmp_path, every_rounds=1), PROBLEM) as keeper:
        keeper.load()
        earlier.unlink()
        earlier.mkdir()
        for n_rounds in range(3, 8):
            offer(keeper, after(n_rounds))
        assert names(tmp_path) == ["000000001.safetensors", "000000006.safetensors", "000000007.safetensors"]
        with pytest.warns(CheckpointWarning, match=r"000000001\.safetensors could not be removed"):
            keeper.end(after(1), complete=True)


def test_what_a_killed_fit_wrote_over_goes_whatever_machine_it_ran_on(tmp_path: Path) -> None:
    write(tmp_path, 3)
    (tmp_path / f".{PROBLEM.stem}.1-1@elsewhere.tmp").touch()
    being_written = tmp_path / f".{PROBLEM.path(tmp_path, 4).name}.1-1@elsewhere.tmp"
    being_written.touch()
    assert found(tmp_path) is not None
    assert set(tmp_path.iterdir()) == {PROBLEM.path(tmp_path, 3), being_written}


def test_one_that_somebody_else_removed_is_not_missed(tmp_path: Path) -> None:
    with Keeper(Checkpoint(directory=tmp_path, every_rounds=1), PROBLEM) as keeper:
        for n_rounds in range(1, 8):
            offer(keeper, after(n_rounds))
            for path in tmp_path.iterdir():
                path.unlink()
        offer(keeper, after(8))
    assert names(tmp_path) == ["000000008.safetensors"]


def digest_of(path: Path) -> str:
    with safe_open(path, framework="numpy") as file:
        return str(file.metadata()["sha256"])


def test_digests_of_arrays_that_stay_are_used_again(tmp_path: Path) -> None:
    """The file is that of one written alone; a state that was changed in place, which no strategy may do, is seen when it is read."""
    digests = Digests()
    first, second = PROBLEM.path(tmp_path, 1), PROBLEM.path(tmp_path, 2)
    state = after(1).states[0]
    write_checkpoint(first, PROBLEM, after(1)._replace(states=[state]), digests)
    later = after(2)._replace(states=[state._replace(direction=np.ones(300))])
    write_checkpoint(second, PROBLEM, later, digests)
    in_series = digest_of(second)
    write_checkpoint(second, PROBLEM, later)
    assert digest_of(second) == in_series
    state.iterate.parameters[7] += 1
    write_checkpoint(second, PROBLEM, later, digests)
    assert_refused(tmp_path, second, "is damaged", 1)


def test_by_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with Keeper(Checkpoint(directory=tmp_path, every_seconds=5.0), PROBLEM) as keeper:
        for n_rounds in range(1, 12):
            now[0] += 2.0
            offer(keeper, after(n_rounds))
    assert names(tmp_path) == ["000000006.safetensors", "000000009.safetensors"]


def test_rounds_are_not_waited_for_while_one_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    begun: list[int] = []

    def slowly(path: Path, problem: FitKey, saved: Saved, *series: Any) -> None:
        begun.append(len(saved.history))
        assert go_on.wait(30)
        write_checkpoint(path, problem, saved, *series)

    monkeypatch.setattr(module, "write_checkpoint", slowly)
    with Keeper(Checkpoint(directory=tmp_path, every_rounds=1), PROBLEM) as keeper:
        for n_rounds in range(1, 10):
            keeper.rest(after(n_rounds))
        go_on.set()
        keeper._settle()
        keeper.end(after(9), complete=False)
    assert begun == [1, 9]
    assert names(tmp_path) == ["000000001.safetensors", "000000009.safetensors"]


@pytest.mark.parametrize("error", [None, OSError("no")], ids=["written", "failed"])
def test_the_writer_rests_as_long_as_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError | None) -> None:
    now = [100.0]
    begun: list[int] = []

    def in_three_seconds(path: Path, problem: FitKey, saved: Saved, *series: Any) -> None:
        begun.append(len(saved.history))
        now[0] += 3.0
        if error is not None:
            raise error

    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "write_checkpoint", in_three_seconds)
    with Keeper(Checkpoint(directory=tmp_path, every_rounds=1), PROBLEM) as keeper, warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        for n_rounds in range(1, 11):
            keeper.rest(after(n_rounds))
            keeper._settle()
            now[0] += 1.0
        keeper.end(after(10), complete=False)
    assert begun == [1, 4, 7, 10] if error is None else begun == [1, 4, 7, 10, 10]


def test_a_fit_goes_on_from_the_latest(tmp_path: Path) -> None:
    write(tmp_path, 3, 10, 9)
    saved = found(tmp_path)
    assert saved is not None
    assert len(saved.history) == 10


def test_not_to_resume_is_to_begin_anew(tmp_path: Path) -> None:
    other = PROBLEM._replace(words={**PROBLEM.words, "C": "2.0"})
    write(tmp_path, 3)
    (kept,) = write(tmp_path, 4, problem=other)
    assert found(tmp_path, resume=False) is None
    assert list(tmp_path.iterdir()) == [kept]
    assert found(tmp_path, resume=False, shared=False) is None
    assert not list(tmp_path.iterdir())


def test_files_of_the_user_stay(tmp_path: Path) -> None:
    write(tmp_path, 3)
    for name in ("model.safetensors", "epoch-000000009.safetensors", "notes.txt"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "folder.safetensors").mkdir()
    assert found(tmp_path, shared=False, resume=False) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "epoch-000000009.safetensors", "folder.safetensors", "model.safetensors", "notes.txt",
    ]  # fmt: skip


def test_other_problems_live_beside(tmp_path: Path) -> None:
    other = PROBLEM._replace(words={**PROBLEM.words, "C": "2.0"})
    write(tmp_path, 3, problem=other)
    assert found(tmp_path) is None
    with pytest.raises(ValueError, match=r"is of another problem: its C is 2\.0, here 1\.0; train what it is of, or without --resume"):
        found(tmp_path, shared=False)


@contextmanager
def refused(path: Path, words: str) -> Iterator[None]:
    with pytest.warns(CheckpointWarning) as caught:
        yield
    assert len(caught) == 1
    assert str(path) in str(caught[0].message)
    assert words in str(caught[0].message)


def assert_refused(directory: Path, path: Path, words: str, expected: int | None) -> None:
    with refused(path, words):
        saved = found(directory)
    assert (None if saved is None else len(saved.history)) == expected


def test_flipped_bits_are_seen(tmp_path: Path) -> None:
    _, path = write(tmp_path, 3, 4)
    content, places = path.read_bytes(), random.Random(0)
    for _ in range(50):
        place = places.randrange(8 * len(content))
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        assert_refused(tmp_path, path, "", 3)


def test_files_that_are_cut_short_are_seen(tmp_path: Path) -> None:
    _, path = write(tmp_path, 3, 4)
    content = path.read_bytes()
    for size in [*range(0, len(content), 1024), len(content) - 1]:
        path.write_bytes(content[:size])
        assert_refused(tmp_path, path, "", 3)


def test_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    _, path = write(tmp_path, 3, 4)
    save_file({"x": np.zeros(3)}, path)
    assert_refused(tmp_path, path, "no checkpoint that dask-descent wrote", 3)
    path.write_bytes(b"\x80\x04\x95 a pickle")
    assert_refused(tmp_path, path, "no readable safetensors file", 3)
    path.unlink()
    path.mkdir()
    assert_refused(tmp_path, path, "there is no checkpoint", 3)


@pytest.mark.parametrize("version", ["6", "8"])
def test_other_formats_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """States of version 6 have other names."""
    write(tmp_path, 3)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.checkpoints.files.CHECKPOINT", CHECKPOINT._replace(version=version))
        (path,) = write(tmp_path, 4)
    assert_refused(tmp_path, path, f"has format version {version}, this dask-descent reads 7", 3)


def test_a_file_that_only_says_to_be_of_this_problem_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 3)
    other = PROBLEM._replace(words={**PROBLEM.words, "data": "8 rows"})
    path = PROBLEM.path(tmp_path, 4)
    write_checkpoint(path, other, after(4))
    assert_refused(tmp_path, path, "it is of another problem: its data is 8 rows, here 7 rows", 3)


def test_states_that_are_not_known_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.pipeline.training.checkpoints.test_trees import Own

    write(tmp_path, 3)
    path = PROBLEM.path(tmp_path, 4)
    write_checkpoint(path, PROBLEM, Saved([Own(1.0)], after(4).history, None, 0))
    assert found(tmp_path) == Saved([Own(1.0)], after(4).history, None, 0)
    monkeypatch.delitem(sys.modules, Own.__module__)
    assert_refused(tmp_path, path, "is not known here; import its module first", 3)


def test_older_ones_of_a_fit_that_goes_on_go(tmp_path: Path) -> None:
    write(tmp_path, 3, 4, 5)
    with Keeper(Checkpoint(directory=tmp_path, every_rounds=1), PROBLEM) as keeper:
        keeper.load()
        offer(keeper, after(6))
    assert names(tmp_path) == ["000000005.safetensors", "000000006.safetensors"]


def test_what_cannot_be_removed_is_a_warning(tmp_path: Path) -> None:
    PROBLEM.path(tmp_path, 3).mkdir()
    with Keeper(Checkpoint(directory=tmp_path, every_rounds=1), PROBLEM) as keeper:
        with pytest.warns(CheckpointWarning, match="there is no checkpoint"):
            keeper.load()
        offer(keeper, after(4))
        with pytest.warns(CheckpointWarning, match=r"000000003\.safetensors could not be removed"):
            keeper.end(after(1), complete=True)
    assert names(tmp_path) == ["000000003.safetensors"]


def test_a_directory_that_another_fit_removed_is_made_again(tmp_path: Path) -> None:
    directory = tmp_path / "shared"
    with Checkpoint(directory=directory).prepared(), Keeper(Checkpoint(directory=directory, every_rounds=1), PROBLEM) as keeper:
        directory.rmdir()
        offer(keeper, after(4))
        assert names(directory) == ["000000004.safetensors"]


def test_a_relative_directory_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = Checkpoint(directory="here", every_rounds=1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with Keeper(options, PROBLEM) as keeper:
        offer(keeper, after(4))
    assert names(tmp_path / "here") == ["000000004.safetensors"]
    assert not list((tmp_path / "elsewhere").iterdir())


def test_with_none_that_can_be_used_a_fit_begins_anew(tmp_path: Path) -> None:
    (path,) = write(tmp_path, 3)
    path.write_bytes(b"")
    assert_refused(tmp_path, path, "", None)


def test_another_version_of_the_library_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.files.tensors.__version__", "0.0.9")
        write(tmp_path, 3)
    with pytest.warns(CheckpointWarning, match=r"was written by version 0\.0\.9 .* may differ in its last digits"):
        assert found(tmp_path) is not None


def test_other_arithmetic_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.checkpoints.files.arithmetic", lambda: {"NumPy": "1.0", "SciPy": "1.0", "CPU and BLAS": "other"})
        write(tmp_path, 3)
    with pytest.warns(CheckpointWarning, match=rf"was written by NumPy 1\.0 and this is {np.__version__}; .* CPU and BLAS other and this"):
        assert found(tmp_path) is not None


def test_no_memory_for_a_checkpoint_costs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_nothing(*_: Any) -> None:
        raise MemoryError

    with Keeper(Checkpoint(directory=tmp_path, every_rounds=1), PROBLEM) as keeper:
        offer(keeper, after(3))
        with monkeypatch.context() as patch:
            patch.setattr(module, "write_checkpoint", write_nothing)
            with pytest.warns(CheckpointWarning, match=r"no checkpoint after round 4: no memory for it; the last one is .*000000003"):
                offer(keeper, after(4))
            with pytest.warns(CheckpointWarning, match="no checkpoint after round 5"):
                keeper.end(after(5), complete=False)
    assert names(tmp_path) == ["000000003.safetensors"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False, capture_output=True, timeout=10)
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True, timeout=10)


def test_one_that_may_not_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, 3, 4)[1]
    opened = Path.open

    def as_others(file: Path, *mode: str) -> Any:
        if file == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return opened(file, *mode)

    monkeypatch.setattr(Path, "open", as_others)
    assert_refused(tmp_path, path, "Permission denied", 3)


def test_leftovers_that_only_their_owner_may_remove_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a directory with the sticky bit."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write(tmp_path, 3)
    leftover = tmp_path / f".{PROBLEM.stem}-000000004.safetensors.{gone.pid}-1@{HOST}.tmp"
    leftover.touch()

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        assert found(tmp_path) is not None
    assert leftover.exists()
    assert found(tmp_path) is not None
    assert not leftover.exists()


def test_a_full_disk_costs_neither_the_fit_nor_the_last_checkpoint(tiny_disk: Path) -> None:
    small, large = after(3), after(4)._replace(states=[np.zeros(20_000)])
    with Keeper(Checkpoint(directory=tiny_disk, every_rounds=1), PROBLEM) as keeper:
        offer(keeper, small)
        with pytest.warns(
            CheckpointWarning,
            match=r"no checkpoint after round 4: .* cannot write .*000000004\.safetensors: No space left on device; the last",
        ):
            offer(keeper, large)
        assert names(tiny_disk) == ["000000003.safetensors"]
        offer(keeper, after(5))
    saved = found(tiny_disk)
    assert saved is not None
    assert len(saved.history) == 5


def test_a_disk_that_becomes_read_only_costs_neither(tiny_disk: Path) -> None:
    with Keeper(Checkpoint(directory=tiny_disk, every_rounds=1), PROBLEM) as keeper:
        offer(keeper, after(3))
        subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True, timeout=10)
        with pytest.warns(CheckpointWarning, match="no checkpoint after round 4: .*Read-only file system"):
            offer(keeper, after(4))
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True, timeout=10)
    with pytest.raises(OSError, match=r"cannot keep checkpoints in .*Read-only"), Checkpoint(directory=tiny_disk).prepared():
        pass
    saved = found(tiny_disk)
    assert saved is not None
    assert len(saved.history) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="cannot keep checkpoints in"), Checkpoint(directory=tmp_path / "inside").prepared():
        pass


def test_a_directory_that_cannot_be_one_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot keep checkpoints in"), Checkpoint(directory=tmp_path / "file" / "inside").prepared():
        pass


def test_an_empty_directory_does_not_stay(tmp_path: Path) -> None:
    with Checkpoint(directory=tmp_path / "a" / "b").prepared():
        assert (tmp_path / "a" / "b").is_dir()
    assert not (tmp_path / "a" / "b").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_rounds": 0}, "every_rounds must be an integer of at least 1"),
        ({"every_rounds": 1.5}, "every_rounds must be an integer"),
        ({"every_seconds": 0}, "every_seconds must be a number above 0"),
        ({"every_seconds": float("nan")}, "every_seconds must be a number above 0"),
        ({"every_seconds": "1"}, "every_seconds must be a number above 0"),
    ],
    ids=str,
)
def test_intervals_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Checkpoint(directory="x", **options)


def test_what_checkpoint_may_be() -> None:
    given = Checkpoint(directory="x")
    assert Checkpoint.of(None) is None
    assert Checkpoint.of(given) is given
    assert Checkpoint.of("x") == given
    assert Checkpoint.of(Path("x")) == dataclasses.replace(given, directory=Path("x"))
    for wrong in (3, "", True, Checkpoint):
        with pytest.raises(TypeError, match="checkpoint must be a directory"):
            Checkpoint.of(wrong)
    for wrong in (3, "", None, Path()):
        with pytest.raises(TypeError, match="directory must be the path of a directory"):
            Checkpoint(directory=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is of nobody here"):
        Checkpoint(directory="~nosuchuser/x")
    for elsewhere in ("s3://bucket/fits", "a\0b"):
        with pytest.raises(ValueError, match="directory must be a path in a file system"):
            Checkpoint(directory=elsewhere)
    for boolean in ("every_rounds", "every_seconds"):
        with pytest.raises(ValueError, match=f"{boolean} must be .*, got True"):
            Checkpoint(directory="x", **{boolean: True})
    with pytest.raises(TypeError, match="resume must be True or False"):
        Checkpoint(directory="x", resume="no")  # type: ignore[arg-type]


def test_states_that_no_checkpoint_can_hold_are_an_error_at_the_start(tmp_path: Path) -> None:
    with Keeper(Checkpoint(directory=tmp_path), PROBLEM) as keeper, pytest.raises(TypeError, match="a checkpoint cannot hold"):
        keeper.watching([object()]).__enter__()
    loop: list[Any] = []
    loop.append(loop)
    with Keeper(Checkpoint(directory=tmp_path), PROBLEM) as keeper, pytest.raises(TypeError, match="a checkpoint cannot hold list"):
        keeper.watching([loop]).__enter__()


def test_nothing_warns_when_all_is_well(tmp_path: Path) -> None:
    write(tmp_path, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found(tmp_path) is not None

"""Plans beside what is known otherwise: closed forms, real fits, and the cures that refusals name."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from pipeline.cluster.queue.queue_options import parse_memory
from pipeline.execution.remembering import RememberingPump
from pipeline.execution.threads import ThreadExecutor
from pipeline.jobs.job import Job
from pipeline.planning import Plan, PlanError, make_plan, plan_text
from pipeline.planning import plan as planning
from pipeline.planning import probe as probing
from pipeline.planning import sample as sampling
from pipeline.planning.costs import Cost, Kind, Worker
from pipeline.planning.on_worker import runs_of_subtrees
from pipeline.planning.plan import duration, round_up, scaling, size
from pipeline.planning.probe import Fitted, Probe, Recorder, counts, probe, set_up
from pipeline.planning.sample import take_sample
from pipeline.planning.shares import makespan, memory_of, seconds_of, share_out, tree_depth
from pipeline.planning.strategies import gradients_of, under_way
from pipeline.training.loop import train
from tasks.rows.batches import Sampling
from tasks.rows.draws import spread
from tasks.rows.partition import arrays_of
from tasks.strategies.admm import ADMM
from tasks.strategies.asynchronous import Asynchronous, Overlap
from tasks.strategies.lbfgs import LBFGS
from tasks.strategies.stochastic_gradient import StochasticGradient

GB = 10**9


def make_job(estimator: dict[str, Any] | None = None, test_size: float = 0.25, **data: Any) -> Job:
    rows = {"kind": "generated", "n_partitions": 16, "rows_per_partition": 1_000, "n_columns": 10, **data}
    return Job.read(
        {"data": rows, "split": {"test_size": test_size}, "estimator": {"name": "LogisticRegression", **(estimator or {})}}, "a-job"
    )


@pytest.fixture(scope="module")
def found() -> Probe:
    """Of 1 GB of rows in 64 partitions, few of which are read."""
    return probe(make_job(n_partitions=64, rows_per_partition=20_000, n_columns=100), 1)


def with_costs(found: Probe, **cost: float) -> Probe:
    """The probe with one kind of round of that cost."""
    kind = Kind("loss_and_gradient", 1)
    nothing = Cost(kind, 1, 0.0, 800, 800)
    return replace(found, worker=Worker((replace(nothing, **cost),), 1e-6, 200_000_000))


@pytest.mark.parametrize("solver", ["newton", "lbfgs", "newton-cg"])
@pytest.mark.long
def test_a_small_job_is_planned_as_it_is_fitted(solver: str) -> None:
    job = make_job({"solver": solver})
    plan = make_plan(job, 2, 4 * GB)
    train, _ = job.split.parts(job.data.dataset())
    model = job.estimator.build().fit(train)
    assert plan.sent_bytes + plan.returned_bytes == model.bytes_per_round_
    assert plan.n_rounds == model.n_rounds_ == sum(kind.count for kind in plan.kinds)
    assert plan.n_train_rows == train.schema.n_rows
    assert (plan.n_rows, plan.rows_known, plan.n_partitions, plan.n_columns) == (16_000, True, 16, 10)
    assert plan.n_parameters == 11
    assert 0 < plan.round_seconds < plan.total_seconds
    assert plan.core_hours == pytest.approx(plan.total_seconds * 2 / 3600)
    # two threads hold a whole subtree each, so that each sends one sum
    assert plan.cluster_bytes == 2 * model.bytes_per_round_
    assert "16,000 (known)" in plan_text(plan)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.long
def test_memory_is_that_of_the_arrays(dtype: str) -> None:
    job = make_job({"solver": "lbfgs"}, rows_per_partition=5_000, n_columns=40, dtype=dtype)
    whole, half = (make_plan(job, jobs, 4 * GB).memory for jobs in (1, 2))
    X, y = 80_000 * 40 * np.dtype(dtype).itemsize, 80_000  # labels are int8
    assert whole.rows == pytest.approx(X + y, rel=0.001)
    assert half.rows == pytest.approx((X + y) / 2, rel=0.001)
    assert whole.loading == pytest.approx((X + y) / 16, rel=0.001)
    assert whole.derived == pytest.approx(0.75 * 80_000 * 8, rel=0.01)  # labels as float64, of the rows to train on
    assert whole.peak == pytest.approx(whole.process + whole.rows + max(whole.loading, whole.derived + whole.scratch), abs=10)
    assert whole.needed == pytest.approx(max(whole.peak / 0.7, whole.rows / 0.6), abs=10)
    assert 50e6 < whole.process < 1e9


@pytest.mark.long
def test_a_large_job_is_estimated_from_a_few_partitions(found: Probe) -> None:
    sample = found.sample
    assert 0 < sample.n_partitions < 32
    assert sample.group_rows().sum() == 64 * 20_000
    assert found.schema.n_rows == pytest.approx(0.75 * 64 * 20_000, rel=0.01)
    assert found.schema.class_weights.sum() == pytest.approx(found.schema.n_rows)
    assert found.schema.n_bytes == pytest.approx(found.schema.n_rows * 100 * 8)
    memory = memory_of(found, share_out(sample.group_rows().tolist(), 1, 1), 1)
    assert memory.rows == pytest.approx(64 * 20_000 * (100 * 8 + 1), rel=0.001)


BATCHES = {
    "early": {"name": "SGDClassifier", "early_stopping": True, "batch_size": 4_000},
    "svrg": {"name": "SGDClassifier", "loss": "log_loss", "variance_reduction": "svrg", "batch_size": 4_000},
    "network": {"name": "MLPClassifier", "hidden_layer_sizes": [32], "batch_size": 1_000, "max_iter": 5},
}


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.long
def test_rounds_of_mini_batches_are_those_of_a_fit(name: str, cores: int) -> None:
    job = make_job({**BATCHES[name], "random_state": 0}, rows_per_partition=5_000, n_columns=50)
    plan = make_plan(job, 1, 4 * GB, cores)
    rows, _ = job.split.parts(job.data.dataset())
    executor, model = ThreadExecutor(cores), job.estimator.build()
    model._survey(executor, rows)
    setup = model._set_up(rows.schema, rows.source.n_groups)
    history = train(executor, rows, setup.fit, model._first_states(setup.fit)).history
    assert plan.rounds_known and plan.n_rounds == len(history)
    expected = Counter((row["oracle"], row["row_step"]) for row in history)
    assert sorted(kind.count for kind in plan.kinds) == sorted(expected.values())
    batches = max(plan.kinds, key=lambda kind: kind.count)
    assert batches.what.endswith("of a batch") and batches.count % setup.strategy.sampling.n_rounds == 0
    assert plan.round_seconds > 0
    assert " x loss and gradient of a batch " in plan_text(plan) or name == "svrg"


@pytest.mark.parametrize("name", ["SGDRegressor", "MLPRegressor"])
@pytest.mark.long
def test_batches_of_a_sample_say_how_many_rounds_all_rows_take(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "SAMPLE_BYTES", 1)
    monkeypatch.setattr(probing, "FIT_SECONDS", 0.5)
    random = np.random.default_rng(0)
    X = random.normal(size=(64_000, 8)).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", (X @ np.arange(8.0)))
    files = {"kind": "npy", "X": f"{tmp_path}/X.npy", "y": f"{tmp_path}/y.npy", "n_partitions": 32}
    options = {"name": name, "batch_size": 1_000, "tol": 0.0, "max_iter": 1_000}
    job = Job.read({"data": files, "split": {"test_size": 0}, "estimator": options}, "batches")
    found = probe(job, 2)
    assert 1 < len(found.sample.numbers) < 32
    (cost,) = found.worker.costs
    assert cost.kind.n_batches == 64 and cost.count % 64 == 0
    n_subtrees = found.sample.dataset.source.n_groups >> found.level
    assert found.level and found.subtree_rows().tolist() == [64_000 / n_subtrees] * n_subtrees
    assert cost.row_seconds > 0


def test_threads_have_whole_subtrees() -> None:
    assert [list(run) for run in runs_of_subtrees(7, 1, 3)] == [[0, 1, 2, 3], [4, 5], [6]]
    assert [list(run) for run in runs_of_subtrees(7, 3, 3)] == [[*range(7)]]
    assert [list(run) for run in runs_of_subtrees(4, 0, 2)] == [[0, 1], [2, 3]]


def test_epochs_that_were_cut_off_are_completed() -> None:
    batch, full, score = Kind("gradient_difference", 1, 10), Kind("loss_and_gradient", 1), Kind("score", 1)
    recorder = Recorder(1, 0.0)
    recorder.updates = {full: [0.0] * 2, batch: [0.0] * 25, score: [0.0] * 2}
    recorder.steps = {full: 2, batch: 25, score: 2}
    endless = StochasticGradient(Sampling(0, 10), max_epochs=50, tol=-math.inf)
    assert counts(Fitted(recorder, True), endless) == {full: 2, batch: 25, score: 2}
    assert counts(Fitted(recorder, False), endless) == {full: 40, batch: 500, score: 40}
    assert counts(Fitted(recorder, False), replace(endless, tol=1e-3)) == {full: 2, batch: 30, score: 2}
    assert counts(Fitted(recorder, False), LBFGS()) == {full: 2, batch: 25, score: 2}
    assert str(batch) == "gradient difference of a batch"


def test_rounds_of_several_updates_are_counted_by_these() -> None:
    recorder, kind = Recorder(1, 0.0), Kind("local_steps", 1, 10)
    recorder.updates, recorder.steps = {kind: [0.0] * 3}, {kind: 14}  # 1.4 epochs
    endless = StochasticGradient(Sampling(0, 10), max_epochs=50, tol=-math.inf)
    assert counts(Fitted(recorder, False), replace(endless, tol=1e-3)) == {kind: round(3 * 2 / 1.4)}
    assert counts(Fitted(recorder, False), endless) == {kind: round(3 * 50 / 1.4)}


def test_a_refusal_names_what_fits(found: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "probe", lambda job, cores: found)
    job, limit = make_job(), 800_000_000
    with pytest.raises(PlanError, match=r"^a-job does not fit 1 job of 800MB: each needs") as refused:
        make_plan(job, 1, limit)
    jobs, memory = re.search(r"use --jobs (\d+), or --memory (\S+)$", str(refused.value)).groups()  # type: ignore[union-attr]
    assert make_plan(job, int(jobs), limit).memory.needed <= limit
    assert make_plan(job, 1, parse_memory(memory)).memory.needed <= parse_memory(memory)
    monkeypatch.setattr(planning, "MARGIN", 1.0)
    with pytest.raises(PlanError):
        make_plan(job, planning.least_jobs(found, planning.Asked(1, 1, limit)) - 1, limit)  # type: ignore[operator]


@pytest.mark.long
def test_the_cure_of_a_refusal_passes_another_probe() -> None:
    job = make_job(n_partitions=32, rows_per_partition=10_000, n_columns=100)
    with pytest.raises(PlanError) as refused:
        make_plan(job, 1, 600_000_000)
    jobs = int(re.search(r"--jobs (\d+)", str(refused.value)).group(1))  # type: ignore[union-attr]
    assert make_plan(job, jobs, 600_000_000).memory.needed <= 600_000_000


def test_where_a_partition_is_too_large_smaller_ones_are_the_cure(found: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "probe", lambda job, cores: replace(found, worker=found.worker._replace(n_bytes=100_000_000)))
    with pytest.raises(
        PlanError, match=r"more jobs do not help, for a single partition holds 16MB; use --memory .*, or smaller partitions$"
    ):
        make_plan(make_job(), 2, 160_000_000)
    with pytest.raises(PlanError, match=r"or smaller partitions, or fewer cores a job$"):
        make_plan(make_job(), 2, 160_000_000, cores=2)
    with pytest.raises(PlanError, match=r"the process alone is larger, so use --memory"):
        make_plan(make_job(), 2, 80_000_000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, GB, 1), "jobs must be at least 1, got 0"),
        ((1, 0, 1), "memory must be at least 1, got 0"),
        ((1, GB, 0), "cores must be at least 1, got 0"),
        ((1, 64 * 2**20 - 1, 1), "memory, of each job, must be at least 64MiB, got 67.1MB"),
    ],
)
def test_mistakes_are_found_before_anything_is_measured(
    arguments: tuple[int, int, int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "probe", lambda job, cores: pytest.fail("measured"))
    with pytest.raises(ValueError, match=message):
        make_plan(make_job(), *arguments)


SGD: dict[str, Any] = {"name": "SGDClassifier", "max_iter": 4, "tol": None, "random_state": 0}
MLP: dict[str, Any] = {"name": "MLPClassifier", "hidden_layer_sizes": [8], "max_iter": 4, "early_stopping": True, "random_state": 0}
NOBODY_WAITS: dict[str, tuple[dict[str, Any], int, int, int, int]] = {
    "async": ({**SGD, "solver": "async", "staleness": 2}, 3, 88, 104, 0),
    "as they come": ({**MLP, "solver": "async", "order": "as-they-come"}, 5, 388, 404, 0),
    "parameter-server": ({**SGD, "solver": "parameter-server", "staleness": None}, 16, 88, 104, 0),
    "local-sgd": ({**SGD, "solver": "local-sgd", "local_steps": 5}, 1, 88, 104, 0),
    "local-sgd that remembers": ({**MLP, "solver": "local-sgd"}, 1, 388, 404, 2 * 388),
    "admm": ({"name": "LogisticRegression", "solver": "admm"}, 1, 88 * 17, 102, 0),
    "compression": ({**SGD, "compression": "top-k"}, 1, 10, 10, 2 * 88),
    "compressed async": ({**MLP, "solver": "async", "compression": "float16"}, 5, 198, 198, 2 * 388),
}
"""An estimator, rounds under way at a time, bytes to a thread and back in most rounds, and those that a subtree remembers: 11 float64 or
97 float32 parameters, and in sums loss and weight beside the gradient; or a dual and a place of each of 16 subtrees; or one number, where
it is, and how many there are; or 97 numbers of 16 bits and a scale."""

ALIKE = ("async", "local-sgd", "compression")
"""Of which others are further cases."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ALIKE else pytest.mark.long) for name in NOBODY_WAITS]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_strategies_of_who_waits_are_planned_as_they_are_fitted(name: str) -> None:
    estimator, at_once, sent, returned, remembered = NOBODY_WAITS[name]
    job = make_job(estimator)
    found = probe(job, 1)
    plan = planned(found, job)
    rows, _ = job.split.parts(job.data.dataset())
    model = job.estimator.build().fit(rows)
    assert plan.rounds_known and plan.n_rounds == model.n_rounds_
    expected = Counter(row["oracle"].replace("_", " ") for row in model.history_)
    planned_kinds = Counter[str]()
    for kind in plan.kinds:
        planned_kinds[kind.what.partition(" of a batch")[0]] += kind.count
    assert planned_kinds == expected
    assert under_way(found.strategy) == at_once
    assert all(cost.kind.by_turns == (at_once > 1) for cost in found.worker.costs if cost.kind.n_batches)
    assert (plan.sent_bytes, plan.returned_bytes) == (sent, returned)
    assert all(cost.row_seconds > 0 and cost.delay_seconds > 0 for cost in found.worker.costs)
    assert found.remembered_bytes == remembered
    assert plan.solver in plan_text(plan)


def planned(found: Probe, job: Job) -> Plan:
    """The plan of two jobs by a probe that has been made."""
    shares = planning.share_rows(found, 2, 1)
    return planning.assemble(found, job, planning.Asked(2, 1, 4 * GB), shares, memory_of(found, shares, 1))


def test_rounds_under_way_share_the_threads(found: Probe) -> None:
    gradients = StochasticGradient(Sampling(0, 10, n_turns=64))
    kind = Kind("loss_and_gradient", 1, 640, by_turns=True)
    cost = Cost(kind, 640, 5.0, 800, 800, row_seconds=1e-6, delay_seconds=1e-3, message_seconds=7.0)
    computing = 15_000 * 1e-6  # of 20 000 rows three quarters are to train on

    def seconds(staleness: int | None, jobs: int) -> float:
        of_turns = replace(found, strategy=Asynchronous(gradients, Overlap(staleness=staleness)))
        return seconds_of(of_turns, cost, share_out(of_turns.subtree_rows().tolist(), jobs, 1))

    assert seconds(0, 8) == pytest.approx(computing + 1e-3, rel=0.02)
    assert seconds(3, 8) == pytest.approx(computing / 4, rel=0.02)
    assert seconds(3, 2) == pytest.approx(computing / 2, rel=0.02)
    assert seconds(None, 8) == pytest.approx(computing / 8, rel=0.02)
    assert seconds(None, 64) == 1e-3
    for staleness, why in ((3, "at most 4 rounds are under way"), (0, "at most 1 round is under way"), (None, "by 1 ms at best")):
        of_turns = replace(with_costs(found), strategy=Asynchronous(gradients, Overlap(staleness=staleness)))
        of_turns = replace(of_turns, worker=of_turns.worker._replace(costs=(cost,)))
        assert why in scaling(of_turns, 1)[1]


@pytest.mark.long
def test_turns_of_a_sample_stand_for_those_of_all_subtrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "SAMPLE_BYTES", 1)
    rows = {"n_partitions": 16, "rows_per_partition": 60_000, "n_columns": 8}
    found = probe(make_job({**SGD, "solver": "async", "batch_size": 9_000}, **rows), 2)
    assert len(found.sample.numbers) < 16
    (cost,) = (cost for cost in found.worker.costs if cost.kind.by_turns)
    gradients = gradients_of(found.strategy)
    assert gradients is not None
    assert cost.count == pytest.approx(4 * gradients.sampling.rounds_an_epoch, rel=0.01)


@pytest.mark.long
def test_what_subtrees_remember_takes_memory() -> None:
    network = {**MLP, "hidden_layer_sizes": [200], "solver": "local-sgd", "max_iter": 1}
    two, one = (probe(make_job({**network, "optimizer": name}), 1) for name in ("adam", "sgd"))  # moments, and momentum
    n = 10 * 200 + 200 + 200 + 1
    assert (two.remembered_bytes, one.remembered_bytes) == (2 * 4 * n, 4 * n)
    with_two, with_one = (memory_of(each, planning.share_rows(each, 2, 1), 1) for each in (two, one))
    assert with_two.derived - with_one.derived == pytest.approx(2 * 8 * 4 * n, abs=8)  # two versions in 8 subtrees on each of two workers


@pytest.mark.long
@pytest.mark.parametrize("options", [{"solver": "local-sgd", "optimizer": "adam"}, {"solver": "async", "compression": "int8"}])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_subtrees_remember_as_much_as_is_planned(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    remembered: list[int] = []

    def forget(pump: RememberingPump) -> None:
        groups = pump.rows.source.resident["threads"].all_groups
        remembered.append(sum(each.nbytes for group in groups for each in arrays_of(tuple(group.memory.values()))))

    job = make_job({**MLP, "hidden_layer_sizes": [200], "max_iter": 2, **options}, test_size=0.0)
    found = probe(job, 1)
    monkeypatch.setattr(RememberingPump, "forget", forget)
    job.estimator.build().fit(job.data.dataset())
    shares = planning.share_rows(found, 1, 1)
    with_rows_only = replace(found, remembered_bytes=0)
    planned = memory_of(found, shares, 1).derived - memory_of(with_rows_only, shares, 1).derived
    assert remembered == [pytest.approx(planned, rel=0.01)]


@pytest.mark.long
@pytest.mark.parametrize(("n_partitions", "sample_bytes"), [(18, sampling.SAMPLE_BYTES), (512, 1)])
def test_subtrees_that_are_to_agree_are_those_of_all_rows(n_partitions: int, sample_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "SAMPLE_BYTES", sample_bytes)
    job = make_job({"name": "LogisticRegression", "solver": "admm"}, test_size=0.0, n_partitions=n_partitions, rows_per_partition=100)
    found = probe(job, 2)
    subtrees = pipeline.subtrees(job.data.dataset())
    assert isinstance(found.strategy, ADMM)
    assert found.strategy.subtrees == subtrees and found.level == subtrees.level
    assert found.subtree_rows().tolist() == [100.0 * n for n in np.diff([*subtrees.first_partitions, n_partitions])]
    (cost,) = (cost for cost in found.worker.costs if cost.kind.oracle == "consensus")
    assert cost.sent_bytes == 8 * 11 * (1 + len(subtrees.first_partitions))
    assert cost.summed_bytes == 8 * 11 * (1 + 11)  # each solves with a Hessian of its own


@pytest.mark.timeout(60)
def test_jobs_beyond_the_groups_are_idle(found: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "probe", lambda job, cores: found)
    enough = make_plan(make_job(), 64, 4 * GB)
    plan = make_plan(make_job(), 100_000_000_000, 4 * GB)
    assert plan == replace(enough, jobs=plan.jobs, core_hours=plan.core_hours)
    assert plan.core_hours == pytest.approx(enough.core_hours * plan.jobs / 64)
    assert "100000000000 x 1 thread, 4GB each; 99,999,999,936 idle" in plan_text(plan) and "idle" not in plan_text(enough)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("jobs", [1, 3, 8, 20])
def test_threads_beyond_the_groups_change_nothing(jobs: int) -> None:
    rows = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    assert share_out(rows, jobs, 10**11) == share_out(rows, jobs, 8)
    assert share_out(rows, 8, 1) == share_out(rows, 8 * jobs, 1)


def test_rows_that_cannot_be_used_are_the_usual_error(tmp_path: Path) -> None:
    X = np.zeros((10, 2))
    X[3, 1] = np.nan
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", np.arange(10) % 2)
    files = {"kind": "npy", "X": f"{tmp_path}/X.npy", "y": f"{tmp_path}/y.npy"}
    job = Job.read({"data": files, "split": {"test_size": 0}, "estimator": {"name": "LogisticRegression"}}, "bad")
    with pytest.raises(ValueError, match=r"Input X contains NaN: column 'x1' of X, row 3 of partition 0"):
        make_plan(job, 1, GB)
    with pytest.raises(FileNotFoundError):
        make_plan(replace(job, data=replace(job.data, X=f"{tmp_path}/Z.npy")), 1, GB)


def test_partitions_of_one_class_each_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "SAMPLE_BYTES", 1)
    np.save(tmp_path / "X.npy", np.random.default_rng(0).normal(size=(80, 2)))
    np.save(tmp_path / "y.npy", np.arange(80) // 40)
    files = {"kind": "npy", "X": f"{tmp_path}/X.npy", "y": f"{tmp_path}/y.npy", "n_partitions": 4}
    job = Job.read({"data": files, "split": {"test_size": 0}, "estimator": {"name": "LogisticRegression"}}, "sorted")
    sample = take_sample(job.data.dataset(), 1)
    assert sample.numbers == (0,)
    with pytest.raises(ValueError, match=r"1 of 4 partitions were read, and they cannot be fitted by themselves.*only one class.*shuffle"):
        set_up(job, sample, sample.schema(ThreadExecutor(1)))


# -- arithmetic ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 16, 37, 1000])
def test_the_tree_has_log2_levels(n: int) -> None:
    assert tree_depth(n) == math.ceil(math.log2(n))
    assert sorted(spread(n)) == list(range(n))


def test_the_first_groups_of_a_sample_lie_all_over() -> None:
    assert list(spread(8))[:4] == [0, 4, 2, 6]


def test_shares_follow_the_rows() -> None:
    even = share_out([10.0] * 16, 2, 2)
    assert even == (40.0, 80.0, 4, 4)
    assert share_out([10.0] * 3, 8, 1) == (10.0, 10.0, 3, 3)
    lumpy = share_out([100.0, *[1.0] * 15], 4, 1)
    assert lumpy.slowest_rows >= 100.0
    assert makespan([3.0, 3.0, 2.0], 2) == 5.0


def test_scaling_ends_where_groups_do(found: Probe) -> None:
    jobs, why = scaling(with_costs(found, row_seconds=1e-6), 1)
    assert jobs == 64 and "64 groups of partitions cannot be cut further" in why
    assert scaling(with_costs(found, row_seconds=1e-6), 4)[0] == 16
    ten = _with_source(found, replace(found.sample.dataset.source, n_partitions=10))
    jobs, why = scaling(replace(with_costs(found, row_seconds=1e-6), sample=replace(found.sample, dataset=ten)), 1)
    assert jobs == 16 and "10 groups" in why  # eight jobs would have two groups on some


def test_scaling_ends_where_something_else_takes_as_long(found: Probe) -> None:
    alone = found.schema.n_rows * 1e-6  # seconds of one job; below, the rounds of 1, 2, 4 ... jobs as shares of it
    jobs, why = scaling(with_costs(found, row_seconds=1e-6, update_seconds=alone / 4), 1)
    assert jobs == 8 and "the client's own update takes 240 ms" in why  # 1.25, 0.75, 0.5, 0.375, 0.3125
    jobs, why = scaling(with_costs(found, row_seconds=1e-6, delay_seconds=alone), 1)
    assert jobs == 2 and "a message to a worker and back takes 960 ms" in why  # 2, 1.5, 1.25
    jobs, why = scaling(with_costs(found, row_seconds=1e-6, message_seconds=alone / 16), 1)
    assert jobs == 4 and re.match(r"8 messages a round take", why)  # 1, 0.5625, 0.4375, 0.5625


def test_the_largest_group_is_named(found: Probe) -> None:
    sizes = [1_000] * 63 + [100_000]
    source = replace(found.sample.dataset.source, sizes=sizes)
    uneven = replace(with_costs(found, row_seconds=1e-6), sample=replace(found.sample, dataset=_with_source(found, source)))
    jobs, why = scaling(uneven, 1)
    assert jobs <= 2 and "the largest group has 100,000 rows, others" in why


def _with_source(found: Probe, source: Any) -> Any:
    dataset = found.sample.dataset
    return type(dataset)(source, columns=dataset.columns, dtype=dataset.dtype, n_columns=dataset.n_columns, part=dataset.part)


def test_sizes_and_durations_are_readable() -> None:
    assert [size(n) for n in (12, 1_234, 5_678_901, 4 * GB)] == ["12B", "1.23kB", "5.68MB", "4GB"]
    assert parse_memory("4GB") == 4 * GB and parse_memory("512MiB") == 512 << 20
    assert round_up(1_234_567) == 1_300_000 and parse_memory(size(round_up(987_654_321))) >= 987_654_321
    assert [duration(s) for s in (0.00123, 2.5, 90, 7200)] == ["1.23 ms", "2.5 s", "1.5 min", "2 h"]
    with pytest.raises(ValueError, match="memory must be a size such as 4GB or 512MiB, got 'much'"):
        parse_memory("much")

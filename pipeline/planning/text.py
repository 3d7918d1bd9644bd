"""A plan as `python -m pipeline plan` prints it."""

from __future__ import annotations

from pipeline.planning.plan import Plan, duration, parts_of, size


def plan_text(plan: Plan) -> str:
    """Lines for a terminal."""
    rows = "known" if plan.rows_known else f"estimated from {plan.probed_partitions} of {plan.n_partitions} partitions"
    kinds = ", ".join(f"{kind.count} x {kind.what} {duration(kind.seconds)}" for kind in plan.kinds)
    rounds = "as on the probed rows" if plan.rounds_known else "or more: the fit of the probed rows did not come to its end"
    subtrees = f", in {plan.n_subtrees} subtree{'s' * (plan.n_subtrees > 1)}" if plan.n_subtrees < plan.n_groups else ""
    usual = " (of the kind of which there are most)" if len(plan.kinds) > 1 else ""
    idle = max(0, plan.jobs - plan.n_subtrees)
    lines = {
        "job": f"{plan.name}: {plan.estimator}, {plan.n_columns} columns, {plan.n_parameters} parameters",
        "solver": plan.solver,
        "rows": f"{plan.n_rows:,} ({rows}), {plan.n_train_rows:,} to train on",
        "partitions": f"{plan.n_partitions} in {plan.n_groups} groups{subtrees}, a tree of {plan.tree_depth} levels",
        "workers": f"{plan.jobs} x {plan.cores} thread{'s' * (plan.cores > 1)}, {size(plan.limit)} each" + f"; {idle:,} idle" * (idle > 0),
        "memory a worker": f"{size(plan.memory.needed)} needed, {size(plan.memory.peak)} at peak: {parts_of(plan.memory)}",
        "bytes per round": f"{plan.sent_bytes:,} to a thread, {plan.returned_bytes:,} back; {plan.cluster_bytes:,} in all" + usual,
        "time per round": f"{duration(plan.round_seconds)}: {kinds}",
        "rounds": f"{plan.n_rounds} ({rounds})",
        "total time": f"{duration(plan.total_seconds)}, of which {duration(plan.load_seconds)} to load and check",
        "core-hours": f"{plan.core_hours:.3g}",
        "scales to": f"{plan.scales_to} job{'s' * (plan.scales_to > 1)}: {plan.scaling_limit}",
    }
    return "\n".join(f"{name:17}{text}" for name, text in lines.items())

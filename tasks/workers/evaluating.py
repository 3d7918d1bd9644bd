"""What a round of parameter servers computes where its rows are."""

from __future__ import annotations

from typing import NamedTuple

from tasks.machine.threads import single_blas_thread
from tasks.objectives.evaluation import Evaluation
from tasks.reductions.reduction import reduce_groups
from tasks.reductions.remembered import COMPRESSION, recall
from tasks.reductions.stages.codecs import Payload
from tasks.reductions.stages.marks import Marked
from tasks.rounds.fitting import Fit, Report, about
from tasks.rows.partition import Group
from tasks.strategies.base import Request

NumberedGroups = list[tuple[int, Group]]


class Found(NamedTuple):
    """evaluation: that moves the parameters; report: what there is to say; payload: the sum of gradients as it is coded, None where it is
    not."""

    evaluation: Evaluation
    report: Report
    payload: Payload | None = None


def evaluate_all(fit: Fit, rows: NumberedGroups, n_groups: int, number: int, request: Request) -> Found:
    """What a round's subtree has to say, with all parameters, or with a packet in place of them."""
    with single_blas_thread():
        this, payload = fit.round_of({0: request}, number), None
        nodes = reduce_groups(rows, n_groups, this.reduction, this.broadcast)
        if request.packet is not None:
            (encoded,) = nodes.values()
            ((payload,),) = [(encoded.sums if isinstance(encoded, Marked) else encoded).payloads]
            parameters, *_ = recall([group for _, group in rows], fit.name, COMPRESSION, request.packet.version + 1)
            this = this._replace(requests={0: request._replace(parameters=parameters)})
        sums = this.reduction.whole(nodes, n_groups, this.broadcast)
        ((_, evaluation),) = fit.evaluations(this, sums)
        return Found(evaluation, about(this, sums), payload)


set -u
cd "$here" || exit
pids=() train='' reason=''

running() { for pid; do kill -0 "$pid" 2>/dev/null || return; done; }
fail() { echo "$1" >&2; exit 1; }
latest() { local found=("$run"/checkpoints/*-????????????????-?????????.safetensors); echo "${found[-1]}"; }
write() { cat >"$run/.$1" && mv "$run/.$1" "$run/$1"; }

end() { # seconds, processes
  local tries=$(($1 * 5))
  shift
  kill "$@" 2>/dev/null
  while ((tries--)) && kill -0 "$@" 2>/dev/null; do sleep 0.2; done # true while one of them is left
}

at_job() { printf '{"first_job_id": "%s", "job_id": "%s", "number": %d}\n' "$first" "$1" "$2" | write continued.json; }
out_of_time() { timeout -s KILL 10 scontrol -o show job "$SLURM_JOB_ID" | grep -q ' Reason=TimeLimit '; }

submit_next() { # without this job's variables, which would speak for the new one
  local name this=$SLURM_JOB_ID
  for name in "${!SLURM_@}"; do [ "$name" = SLURM_CONF ] || unset "$name"; done
  timeout -s KILL 20 sbatch --parsable --dependency="afterany:$this" "$run/submit.sh" "$first" $((number + 1))
}

go_on() { # in a further job, if time is all that this one lacks
  [ "$status" = 75 ] || out_of_time || return
  local saved next
  saved=$(latest)
  if [ ! -e "$saved" ] || [ "$saved" = "$before" ]; then
    reason="no further round was saved within the walltime; ask for a longer one"
  elif [ "$max_jobs" = 0 ]; then
    reason="submitted without --resume"
  elif [ "$number" -ge "$max_jobs" ]; then
    reason="--max-jobs $max_jobs is reached"
  elif next=$(submit_next) && next=${next%%;*}; then
    at_job "$next" $((number + 1))
    scontrol update "JobId=$SLURM_JOB_ID" Requeue=0 2>/dev/null # or a node that fails now would have two jobs go on
    echo "the walltime is over; the run continues as job $next"
    return
  else
    reason="SLURM takes no further job from here"
  fi
  echo "the walltime is over; $reason"
  [ ! -e "$saved" ] || echo "python -m pipeline submit --resume goes on from $saved"
}

finish() {
  status=$?
  trap '' TERM INT
  rm -rf "$run/tls" "$run/scheduler.json"
  if [ -n "$train" ]; then # it saves what it has so far; SLURM kills all that is left after half a minute
    end 25 "$train"
    running "$train" || { wait "$train" && status=0; }
  fi
  [ "$status" = 0 ] || go_on
  printf '{"job_id": "%s", "exit_status": %d, "reason": "%s"}\n' "$SLURM_JOB_ID" "$status" "$reason" | write ended.json
  [ ${#pids[@]} = 0 ] || end 10 "${pids[@]}"
  exit "$status"
}
before=$(latest)
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

# what an earlier start left
rm -rf "$run/tls" "$run"/{scheduler.json,ended.json,.history.jsonl.part}
[ "$number" = 1 ] || at_job "$SLURM_JOB_ID" "$number"

if [ -z "${SLURM_JOB_END_TIME:-}" ]; then # older SLURM does not say when the walltime ends; the training wants to know
  SLURM_JOB_END_TIME=$(date --date="$(timeout 10 squeue -h -j "$SLURM_JOB_ID" -o %e)" +%s 2>/dev/null) && export SLURM_JOB_END_TIME
fi

"$python" -m pipeline certificates "$run/tls" >/dev/null || fail "no certificates in $run/tls"
rm "$run/tls/ca-key.pem" # nobody else is to join

"${scheduler[@]}" >>"$run/logs/scheduler.log" 2>&1 &
pids+=($!)
for _ in {1..300}; do
  [ ! -s "$run/scheduler.json" ] && running "${pids[@]}" || break
  sleep 0.2
done
[ -s "$run/scheduler.json" ] || fail "the scheduler did not start; see $run/logs/scheduler.log"

"${workers[@]}" >>"$run/logs/workers.log" 2>&1 &
pids+=($!)
"$python" -m pipeline train "$run/job.toml" --quiet --resume >>"$run/logs/train.log" 2>&1 &
train=$!
pids+=("$train")

while running "${pids[@]}"; do sleep 0.5; done
running "$train" && fail "the scheduler or all workers ended before the training; see $run/logs"
wait "$train"


set -u
cd "$here" || exit
pids=()

running() { for pid; do kill -0 "$pid" 2>/dev/null || return; done; }
fail() { echo "$1" >&2; exit 1; }

finish() {
  status=$?
  trap '' TERM INT
  rm -rf "$run/tls" "$run/scheduler.json"
  printf '{"job_id": "%s", "exit_status": %d}\n' "$SLURM_JOB_ID" "$status" >"$run/.ended.json"
  mv "$run/.ended.json" "$run/ended.json"
  if [ ${#pids[@]} != 0 ]; then
    kill "${pids[@]}" 2>/dev/null
    for _ in {1..50}; do
      kill -0 "${pids[@]}" 2>/dev/null || break # true while one of them is left
      sleep 0.2
    done
  fi
  exit "$status"
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

# what an earlier start left
rm -rf "$run/tls" "$run"/{scheduler.json,ended.json,.history.jsonl.part}

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
"$python" -m pipeline train "$run/job.toml" --quiet >>"$run/logs/train.log" 2>&1 &
train=$!
pids+=("$train")

while running "${pids[@]}"; do sleep 0.5; done
running "$train" && fail "the scheduler or all workers ended before the training; see $run/logs"
wait "$train"

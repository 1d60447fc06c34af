# The end of every script here: train, pass on requests to stop, queue the job again when its time was up.
# Takes the arguments of the script, `train` (the launcher, an array), `run` (its folder) and `job` (its number).
child= asked=
pass_on() { asked=$1; [ -z "$child" ] || kill -TERM "$child"; } # a launcher of several passes on TERM, but not USR1
trap 'pass_on USR1' USR1
trap 'pass_on TERM' TERM
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240 # seconds that a launcher waits for a step and a save, less than --signal
# When NCCL hangs until trainer.timeout_minutes each process writes its latest collectives: torchfrtrace -j <run>/logs/nccl
# Older versions of torch call the first TORCH_NCCL_TRACE_BUFFER_SIZE and the last TORCH_NCCL_DEBUG_INFO_TEMP_FILE.
export TORCH_FR_BUFFER_SIZE=2000 TORCH_NCCL_DUMP_ON_TIMEOUT=1 TORCH_FR_DUMP_TEMP_FILE="$run/logs/nccl/rank_"
mkdir -p "$run/logs/nccl"
"${train[@]}" launch/train.py "$@" &
child=$!
[ -z "$asked" ] || kill -TERM "$child" # the request came before the trainer was started
while wait "$child"; code=$?; kill -0 "$child" 2>/dev/null; do :; done # a signal ends the wait, not the run
# The exit code of a launcher is the same for a run that was stopped and one that failed.
if [ "$asked" = USR1 ] && ! grep -Eqs '"state": "(finished|failed)"' "$run/state.json"; then
  scontrol requeue "$job"
fi
exit "$code"

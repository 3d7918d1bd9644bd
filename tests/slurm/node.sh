#!/usr/bin/env bash
# node.sh up|down DIRECTORY: a real SLURM of one node on this machine, without systemd, as root or as a user. DIRECTORY is absolute.
# Afterwards: export SLURM_CONF=DIRECTORY/slurm.conf. Needs Debian's slurmctld, slurmd, slurm-client and munge.
set -eu
export PATH=$PATH:/usr/sbin
directory=$2
host=$(hostname -s)
export SLURM_CONF=$directory/slurm.conf

if [ "$1" = down ]; then
  scancel -u "$(id -un)" || :
  for _ in $(seq 50); do
    [ -z "$(squeue -h)" ] && break
    sleep .2
  done
  for daemon in slurmd slurmctld munged; do
    pid=$(cat "$directory/run/$daemon.pid") && kill "$pid" && while kill -0 "$pid" 2>/dev/null; do sleep .1; done
  done
  exit 0
fi

mkdir -p "$directory"/{state,spool,run,log,munge}
chmod 755 "$directory" "$directory/munge"
read -r port1 port2 < <(python3 -c '
import socket
sockets = [socket.socket() for _ in range(2)]
[s.bind(("127.0.0.1", 0)) for s in sockets]
print(*[s.getsockname()[1] for s in sockets])')
gpus=
if [ "$(id -u)" = 0 ]; then # GPUs by name alone need device files, which root can make
  gpus=Gres=gpu:2
  for i in 0 1; do [ -e "$directory/gpu$i" ] || mknod "$directory/gpu$i" c 1 3; done
  printf 'AutoDetect=off\nName=gpu File=%s/gpu[0-1] Flags=nvidia_gpu_env\n' "$directory" >"$directory/gres.conf"
fi
cat >"$SLURM_CONF" <<CONF
ClusterName=lab
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port1
SlurmdPort=$port2
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$directory/munge/sock
StateSaveLocation=$directory/state
SlurmdSpoolDir=$directory/spool
SlurmctldPidFile=$directory/run/slurmctld.pid
SlurmdPidFile=$directory/run/slurmd.pid
SlurmctldLogFile=$directory/log/slurmctld.log
SlurmdLogFile=$directory/log/slurmd.log
PlugStackConfig=/dev/null
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$directory/log/jobcomp.log
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=bf_interval=1,sched_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=3
MinJobAge=600
${gpus:+GresTypes=gpu}
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 RealMemory=$(($(awk '/^MemTotal/{print $2}' /proc/meminfo) / 1024 - 500)) $gpus State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES DefMemPerCPU=500 MaxTime=INFINITE State=UP
CONF
[ -f "$directory/munge/key" ] || (umask 077; head -c128 /dev/urandom >"$directory/munge/key")
munged -f --key-file="$directory/munge/key" --socket="$directory/munge/sock" --pid-file="$directory/run/munged.pid" \
  --log-file="$directory/log/munged.log" --seed-file="$directory/munge/seed"
slurmctld -c -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF"
for _ in $(seq 100); do
  [ "$(sinfo -h -o %t 2>/dev/null)" = idle ] && exit 0
  sleep .2
done
echo "the node is not idle; see $directory/log" >&2
exit 1

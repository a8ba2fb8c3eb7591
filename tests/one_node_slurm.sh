#!/bin/sh
# recipes/ranks/slurm.sbatch under a Slurm of one node, started for this and stopped again: two ranks, then a job that Slurm ends early with its
# signal and that is submitted again.
#
#   tests/one_node_slurm.sh       as root; needs slurmctld, slurmd, slurm-client, munge (Debian).   SUTOR=build/sutor
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
: "${SUTOR:=$here/build/sutor}"
export SUTOR
[ "$(id -u)" = 0 ] || { echo "starting Slurm needs root" >&2; exit 1; }
work=$(mktemp -d)
chmod 755 "$work"
host=$(hostname -s)
cat >"$work/slurm.conf" <<CONF
ClusterName=sutor
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=46817
SlurmdPort=46818
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket=$work/munge.socket
SlurmUser=root
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=20
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
mkdir "$work/state" "$work/spool"
export SLURM_CONF="$work/slurm.conf"
dd if=/dev/urandom of="$work/munge.key" bs=1024 count=1 2>/dev/null
chmod 600 "$work/munge.key"
munged --force --key-file="$work/munge.key" --socket="$work/munge.socket" --pid-file="$work/munged.pid" --log-file="$work/munged.log" --seed-file="$work/munged.seed"
slurmctld >/dev/null
slurmd >/dev/null
clean() {
  for d in slurmctld slurmd munged; do [ ! -f "$work/$d.pid" ] || kill "$(cat "$work/$d.pid")" 2>/dev/null || true; done
  sleep 1
  rm -rf "$work"
}
trap clean EXIT INT TERM
n=0
while ! sinfo -h -o %T 2>/dev/null | grep -q idle && [ $n -lt 200 ]; do sleep 0.1; n=$((n + 1)); done
sinfo -h -o "node %n: %T, %c cores" || { cat "$work"/slurm*.log >&2; exit 1; }

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 MPIRUN_OPTIONS="--quiet --oversubscribe"
d=$here/tests/goldens/esft_train
cd "$here"
job() { # OUT SBATCH-OPTIONS -- TRAIN-OPTIONS
  out=$1
  shift
  flags=
  while [ "$1" != -- ]; do flags="$flags $1"; shift; done
  shift
  # shellcheck disable=SC2086
  sbatch --wait --parsable -o "$work/job-%j.out" $flags recipes/ranks/slurm.sbatch "$d/model" "$d/rows.jsonl" "$d/expert_cfg.json" "$out" \
    --seq 256 --lr 1e-3 --grad-accum 4 --quiet "$@" || { cat "$work"/job-*.out >&2; exit 1; }
}
"$SUTOR" train "$d/model" --data "$d/rows.jsonl" --method esft --experts "$d/expert_cfg.json" --seq 256 --lr 1e-3 --grad-accum 4 --quiet --threads 1 --steps 8 --out "$work/one" >/dev/null
job "$work/two" --ntasks=2 -- --steps 8
cmp "$work/two/adapter/model.safetensors" "$work/one/adapter/model.safetensors" && echo "a job of two ranks: the bits of one"

# A job whose time runs out: the recipe's --signal, 50 seconds before the end of its minute here; it writes its checkpoint and ends well; submitted again
# it goes on.
sbatch --parsable -o "$work/long.out" --ntasks=2 --time=1 --signal=B:USR1@50 recipes/ranks/slurm.sbatch "$d/model" "$d/rows.jsonl" "$d/expert_cfg.json" "$work/long" \
  --seq 256 --lr 1e-3 --grad-accum 4 --quiet --steps 100000 >"$work/id"
n=0
while squeue -h -j "$(cat "$work/id")" 2>/dev/null | grep -q . && [ $n -lt 1600 ]; do sleep 0.05; n=$((n + 1)); done
grep -q "resume goes on from" "$work/long.out" || { cat "$work/long.out" >&2; exit 1; }
done=$(ls -d "$work"/long/checkpoint-* | sed 's/.*-//' | sort -n | tail -1)
job "$work/long" --ntasks=2 -- --steps "$((done + 2))"
"$SUTOR" train "$d/model" --data "$d/rows.jsonl" --method esft --experts "$d/expert_cfg.json" --seq 256 --lr 1e-3 --grad-accum 4 --quiet --threads 1 --steps "$((done + 2))" --out "$work/ref" >/dev/null
cmp "$work/long/adapter/model.safetensors" "$work/ref/adapter/model.safetensors" && echo "a job stopped by its signal after step $done and submitted again: the bits of one run"

#!/bin/sh
# ESFT on several ranks with mpirun, on one machine or on those of a host file (a line a host: `node1 slots=1`).
#
#   recipes/ranks/mpirun.sh RANKS MODEL DATA.jsonl EXPERTS.json OUT [options of sutor train]
#   HOSTFILE=hosts recipes/ranks/mpirun.sh 8 ... --ep 4
#
# MODEL, DATA and OUT lie on a file system that all hosts share. One rank a socket or machine, threads for its cores, is a good start:
# replicas (no --ep) where the model fits a rank's memory, --ep N where it does not.
set -eu
[ $# -ge 5 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
ranks=$1 model=$2 data=$3 experts=$4 out=$5
shift 5
[ "$ranks" -ge 1 ] || { echo "RANKS is $ranks: 1 or more" >&2; exit 2; }
: "${SUTOR:=$(dirname "$0")/../../build/sutor}"
# --bind-to none: by default Open MPI binds each of one or two ranks to a single core.
exec mpirun -n "$ranks" ${HOSTFILE:+--hostfile "$HOSTFILE"} --bind-to none ${MPIRUN_OPTIONS:-} \
  "$SUTOR" train "$model" --data "$data" --method esft --experts "$experts" --out "$out" "$@"

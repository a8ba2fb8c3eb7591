#!/bin/sh
# Two "hosts" on this machine (network namespaces with names of their own) joined by a slow link: ESFT over TCP gives the bits of one rank; a link
# cut in the middle of the run ends it with an error that names rank, step and operation; the next run goes on from its checkpoint.
#
#   tests/two_hosts.sh            as root; needs iproute2 and Open MPI.   SUTOR=build/sutor RATE=100mbit DELAY=1ms
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
: "${SUTOR:=$here/build/sutor}" "${RATE:=100mbit}" "${DELAY:=1ms}"
[ "$(id -u)" = 0 ] || { echo "network namespaces need root" >&2; exit 1; }
work=$(mktemp -d)
a=sutor-a$$ b=sutor-b$$
clean() {
  ip netns pids "$b" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
  ip netns del "$a" 2>/dev/null || true
  ip netns del "$b" 2>/dev/null || true
  rm -rf "$work"
}
trap clean EXIT INT TERM
ip netns add "$a"
ip netns add "$b"
ip link add va$$ netns "$a" type veth peer name vb$$ netns "$b"
ip -n "$a" addr add 10.77.0.1/24 dev va$$
ip -n "$b" addr add 10.77.0.2/24 dev vb$$
for n in "$a" "$b"; do ip -n "$n" link set lo up; done
ip -n "$a" link set va$$ up
ip -n "$b" link set vb$$ up
limited=yes
ip netns exec "$a" tc qdisc add dev va$$ root netem delay "$DELAY" rate "$RATE" 2>/dev/null &&
  ip netns exec "$b" tc qdisc add dev vb$$ root netem delay "$DELAY" rate "$RATE" 2>/dev/null || limited=
if [ -z "$limited" ]; then # a kernel without netem: the rate alone
  ip netns exec "$a" tc qdisc replace dev va$$ root tbf rate "$RATE" burst 64kb latency 100ms &&
    ip netns exec "$b" tc qdisc replace dev vb$$ root tbf rate "$RATE" burst 64kb latency 100ms || RATE="not limited" DELAY=none
fi
# What mpirun calls in place of ssh: its first word is the host.
cat >"$work/agent" <<AGENT
#!/bin/sh
shift
exec ip netns exec $b unshare --uts sh -c 'hostname host-b; exec sh -c "\$*"' sh "\$@"
AGENT
chmod +x "$work/agent"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
d=$here/tests/goldens/esft_train
train() { # OUT OPTIONS
  out=$1
  shift
  (cd "$here" && exec ip netns exec "$a" unshare --uts sh -c 'hostname host-a; exec "$@"' sh \
    mpirun --quiet --host 10.77.0.1:1,10.77.0.2:1 -n 2 --bind-to none --mca plm_rsh_agent "$work/agent" --mca orte_keep_fqdn_hostnames 1 --mca btl tcp,self \
    --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 \
    "$SUTOR" train "$d/model" --data "$d/rows.jsonl" --method esft --experts "$d/expert_cfg.json" --seq 256 --lr 1e-3 --grad-accum 2 --threads 1 --quiet --out "$out" "$@")
}
one() {
  (cd "$here" && "$SUTOR" train "$d/model" --data "$d/rows.jsonl" --method esft --experts "$d/expert_cfg.json" --seq 256 --lr 1e-3 --grad-accum 2 --threads 1 --quiet --out "$work/one" "$@" >/dev/null)
}
same() { cmp "$1/adapter/model.safetensors" "$work/one/adapter/model.safetensors" && echo "$2: the bits of one rank"; }
one --steps 12
train "$work/rep" --steps 12 >/dev/null
same "$work/rep" "replicas over TCP, $RATE, $DELAY"
train "$work/ep" --steps 12 --ep 2 >/dev/null
same "$work/ep" "shared experts over TCP, $RATE, $DELAY"

train "$work/cut" --steps 12 --ep 2 --save-every 1 --comm-timeout 3 >"$work/said" 2>&1 &
pid=$!
n=0
while [ ! -d "$work/cut/checkpoint-3" ] && [ $n -lt 600 ]; do sleep 0.05; n=$((n + 1)); done
ip -n "$b" link set vb$$ down
n=0
while ! grep -qE "no answer from rank|MPI:" "$work/said" && [ $n -lt 400 ]; do sleep 0.05; n=$((n + 1)); done
grep -E "no answer from rank|MPI:" "$work/said" | head -1 || { echo "the run did not notice that its link is gone" >&2; exit 1; }
# mpirun itself waits for its daemon beyond the link: on a cluster its scheduler ends it.
kill -9 $pid 2>/dev/null || true
for pid in $(ip netns pids "$a"); do kill -9 "$pid" 2>/dev/null || true; done
ip netns pids "$b" | xargs -r kill -9 2>/dev/null || true
ip -n "$b" link set vb$$ up
sleep 0.2
train "$work/cut" --steps 12 --ep 2 --save-every 1 --resume >/dev/null
same "$work/cut" "a link cut at step 3, then --resume"

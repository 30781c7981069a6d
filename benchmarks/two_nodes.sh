#!/usr/bin/env bash
# Usage: bash benchmarks/two_nodes.sh [MODEL_CARD]
#
# Two machines in one: a rank of training (scaling.py: LoRA r = 4, float32, batch 8, one thread) in each of two network namespaces that a
# pair of virtual cards joins. Shows the bytes that leave a node in a step, by the card's own counters, beside what the ring
# all-reduce of two ranks has to send, which is the gradients once; and tokens a second of one rank alone, of two that know nothing
# of each other, and of two that train together. Needs root, and Linux; leaves no namespace behind. Does not show a real network's
# bandwidth: the bytes say what a step would wait for one.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
card=${1:-gpt2.sm} repeats=${REPEATS:-6} python=${PYTHON:-.venv/bin/python}
if [[ ${1-} == --help || ${1-} == -h ]]; then
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
  exit
fi
if [[ $(id -u) != 0 ]] || ! command -v ip >/dev/null; then
  echo "two_nodes.sh: error: network namespaces need root and the command ip (Debian: iproute2)" >&2
  exit 2
fi

net=lora$$ out=$(mktemp -d)
clean_up() {
  ip netns delete "${net}a" 2>/dev/null || true
  ip netns delete "${net}b" 2>/dev/null || true
  rm -rf "$out"
}
trap clean_up EXIT
for node in a b; do
  ip netns add "$net$node"
  ip -n "$net$node" link set lo up
done
ip link add card netns "${net}a" type veth peer name card netns "${net}b"
ip -n "${net}a" address add 10.77.0.1/24 dev card
ip -n "${net}b" address add 10.77.0.2/24 dev card
for node in a b; do ip -n "$net$node" link set card up; done

on() { # NODE COMMAND…
  GLOO_SOCKET_IFNAME=card OMP_NUM_THREADS=1 ip netns exec "$net$1" "${@:2}"
}
sent() { on a cat /sys/class/net/card/statistics/tx_bytes; }
scaling() { # RANKS REPEATS THREADS, with the launcher in `launcher`
  echo "${launcher[@]}" benchmarks/scaling.py --repeats "$2" --threads "$3" --point "{\"card\":\"$card\",\"batch\":8,\"length\":0,\"ranks\":$1}"
}
together() { # REPEATS: two ranks, a node each; prints the first's row
  local node number=0
  for node in a b; do
    launcher=("$python" -m torch.distributed.run --nnodes=2 --nproc_per_node=1 --node_rank="$number" --master_addr=10.77.0.1 --master_port=29577)
    # shellcheck disable=SC2046
    on "$node" $(scaling 2 "$1" 2) >"$out/$node" 2>"$out/$node.err" &
    number=$((number + 1))
  done
  wait -n || { cat "$out"/*.err >&2 && exit 1; }
  wait -n || { cat "$out"/*.err >&2 && exit 1; }
  tail -n 1 "$out/a"
}
apart() { # NODES…: a rank alone in each, at the same time; prints the rows
  local node
  for node in "$@"; do
    launcher=("$python")
    # shellcheck disable=SC2046
    on "$node" $(scaling 1 "$repeats" 1) >"$out/$node" 2>"$out/$node.err" &
  done
  for node in "$@"; do wait -n || { cat "$out"/*.err >&2 && exit 1; }; done
  for node in "$@"; do tail -n 1 "$out/$node"; done
}

alone=$(apart a)
both=$(apart a b)
# What a run of one step sends is taken off: joining, and the first step.
start=$(sent)
together 1 >/dev/null
short=$(($(sent) - start)) start=$(sent)
joined=$(together "$((repeats + 1))")
long=$(($(sent) - start))
trained=$("$python" src/count_parameters.py --number --model_card "$card" --lora_dim 4)
"$python" - "$card" "$trained" "$(((long - short) / repeats))" "$alone" "$both" "$joined" <<'PY'
import json
import sys

card, trained, sent = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
alone, apart, joined = ([json.loads(line) for line in text.splitlines()] for text in sys.argv[4:])
one, two, together = (sum(row["tokens_a_second"] for row in rows) for rows in (alone, apart, joined))
step, wire = alone[0]["seconds_a_step"]["median"], sent * 8 / 1e9
print("| model | gradients, bytes | sent by a node in a step | of linear at 1 Gb/s | tokens/s, one | two apart | two together | of two apart |")
print("| --- | --- | --- | --- | --- | --- | --- | --- |")
print(
    f"| {card} | {4 * trained:,} | {sent:,} | {step / (step + wire):.3f} | {one} | {two} | {together} | {together / two:.2f} |"
)
print(json.dumps({"card": card, "bytes_a_step": sent, "alone": alone, "apart": apart, "together": joined}))
PY

#!/usr/bin/env bash
# Runs an MPI program on an emulated cluster: network namespaces of this machine as nodes, joined by limited links.
#
#   tools/cluster.sh --nodes 4 --ranks-per-node 2 --rate 1gbit -- build/xmoe train ...
#
# A node is a network namespace with a host name, an address, a /dev/shm and a directory for temporary files of its own.
# One veth pair joins it to a bridge, which lies in a namespace too, so that the network of the machine stays as it is.
# Ranks of a node talk through shared memory, ranks of different nodes through the link of their nodes, which `tc tbf`
# limits in both directions. Needs root and iproute2.
#
# What stands behind the figures that one gets with it:
#   queues   are so long that nothing is dropped: networks of supercomputers hold packets back rather than lose them.
#            Socket buffers are limited, so that a queue is drained sooner than TCP takes its packets for lost.
#   packets  are 9000 bytes (jumbo frames), and the kernel may not join them on their way (gso_max_segs 1): otherwise
#            the interfaces would count one header for 64 KiB. A full packet is 66 bytes of headers in 9014: 0.7 %.
#   cores    are those of this machine, shared by all ranks. Only what waits for the links is like on a real cluster.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly here
readonly root=/run/xmoe-cluster  # a directory per emulated cluster, called after the process that owns it
readonly cannot=77               # exit code: this machine does not allow it (ctest: skipped)

usage() {
  cat <<END
usage: tools/cluster.sh --nodes N --ranks-per-node R [options] -- COMMAND ARGUMENTS
       tools/cluster.sh --clean

Starts COMMAND with mpirun on N emulated nodes with R ranks each, and removes the nodes afterwards.

  --nodes N               nodes, 1 to 200
  --ranks-per-node R      ranks on each node, or a list for nodes that differ: 2,2,1
  --rate RATE             limit of a node's link in each direction, as tc writes it: 200mbit, 1gbit (default: none)
  --latency TIME          added to every packet, each way, as tc writes it: 200us (needs the kernel's netem)
  --counters FILE         write the bytes that each node's interface sent and received during COMMAND, as JSON
  --clean                 remove what is left of emulated clusters whose tools/cluster.sh was killed
  --help                  this text

The ranks find the name of their node's interface in XMOE_LINK_INTERFACE; its counters stand in /proc/net/dev.
Exit code: COMMAND's; 2: wrong usage; $cannot: this machine does not allow it, the reason is on standard error.
END
}

wrong() {
  echo "cluster: $*" >&2
  echo "tools/cluster.sh --help tells more" >&2
  exit 2
}

cannot_here() {
  echo "cluster: cannot run here: $*" >&2
  exit "$cannot"
}

# Runs a command that the machine may forbid.
need() {
  local out
  out=$("$@" 2>&1) || cannot_here "$* failed: ${out:-no reason given}"
}

# A process is known by its number and the time of its start, since numbers are used again.
start_time() {  # PID: nothing if there is no such process
  # The name of the program, in parentheses, may hold anything; the fields after it are counted from the last one.
  sed -E 's/.*\) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20
}

# Ends all processes in the namespaces of a cluster, then removes the namespaces and with them their links.
remove() {  # OWNER
  local owner="$1" space pids tries=0
  local spaces=()
  mapfile -t spaces < <(ip netns list 2>/dev/null | cut -d ' ' -f 1 | grep -F "xmoe.$owner.")
  for space in "${spaces[@]}"; do
    # A process may start another while the list is read, so it is read until it is empty.
    while pids=$(ip netns pids "$space" 2>/dev/null) && [ -n "$pids" ] && [ $((++tries)) -le 100 ]; do
      # shellcheck disable=SC2086  # a list of numbers
      kill -KILL $pids 2>/dev/null || true
      sleep 0.05
    done
    ip netns del "$space" 2>/dev/null || true
  done
  rm -rf "${root:?}/$owner"
}

clean() {
  local directory owner
  for directory in "$root"/*/; do
    [ -d "$directory" ] || continue
    owner=$(basename "$directory")
    # An owner that has just begun has not written its time yet; one that died at that point made nothing else.
    if [ -s "$directory/start" ] && [ "$(start_time "$owner")" != "$(cat "$directory/start" 2>/dev/null)" ]; then
      remove "$owner"
      echo "cluster: removed what process $owner left behind" >&2
    fi
  done
}

nodes='' ranks_per_node='' rate='' latency='' counters='' only_clean=''
while [ $# -gt 0 ]; do
  case "$1" in
    --help) usage; exit 0 ;;
    --clean) only_clean=1; shift; continue ;;
    --) shift; break ;;
    --nodes | --ranks-per-node | --rate | --latency | --counters)
      [ $# -ge 2 ] || wrong "$1 needs a value" ;;&
    --nodes) nodes="$2" ;;
    --ranks-per-node) ranks_per_node="$2" ;;
    --rate) rate="$2" ;;
    --latency) latency="$2" ;;
    --counters) counters="$2" ;;
    *) wrong "unknown option '$1' (the command stands after --)" ;;
  esac
  shift 2
done

if [ -z "$only_clean" ]; then
  { [[ "$nodes" =~ ^[1-9][0-9]{0,2}$ ]] && [ "$nodes" -le 200 ]; } ||
    wrong "--nodes is '$nodes': expected a number from 1 to 200"
  [[ "$ranks_per_node" =~ ^[1-9][0-9]*(,[1-9][0-9]*)*$ ]] ||
    wrong "--ranks-per-node is '$ranks_per_node': expected a number, or a list like 2,2,1"
  IFS=, read -r -a slots <<<"$ranks_per_node"
  if [ ${#slots[@]} -eq 1 ]; then
    for ((i = 1; i < nodes; ++i)); do slots+=("${slots[0]}"); done
  fi
  [ ${#slots[@]} -eq "$nodes" ] ||
    wrong "--ranks-per-node lists ${#slots[@]} nodes, --nodes says $nodes: give one number, or one for each node"
  [ $# -gt 0 ] || wrong "no command: expected  -- COMMAND ARGUMENTS"
fi

[ "$(id -u)" -eq 0 ] || cannot_here "network namespaces need root"
for program in ip tc unshare; do
  command -v "$program" >/dev/null ||
    cannot_here "there is no '$program': tools/install_dependencies.sh cluster installs iproute2"
done

clean
[ -z "$only_clean" ] || exit 0
command -v mpirun >/dev/null || cannot_here "there is no mpirun: tools/install_dependencies.sh build installs Open MPI"

readonly interface=eth0 mtu=9000
# Longer than the sockets' buffers of all peers together: nothing is dropped.
readonly queue=64mb
# What may leave at once. tbf needs no less than what the rate sends between two looks at the clock, and a packet.
readonly burst=128kb

readonly state="$root/$$"
launcher=''
# Errors on the way out are of no use to anyone, and must not keep the rest from being removed.
finish() {
  trap '' INT TERM HUP
  set +e
  [ -z "$launcher" ] || kill -TERM "$launcher" 2>/dev/null
  remove "$$"
  wait 2>/dev/null  # without the shell's word about what was killed
  rmdir "$root" 2>/dev/null
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

need mkdir -p "$state"
start_time $$ >"$state/start"

space() { echo "xmoe.$$.$1"; }

# Limits what leaves through a device.
limit() {  # NAMESPACE DEVICE
  local parent=(root)
  if [ -n "$rate" ]; then
    need ip netns exec "$1" tc qdisc add dev "$2" root handle 1: tbf rate "$rate" burst "$burst" limit "$queue"
    parent=(parent 1:1)
  fi
  if [ -n "$latency" ]; then
    need ip netns exec "$1" tc qdisc add dev "$2" "${parent[@]}" handle 10: netem delay "$latency" limit 100000
  fi
}

bring_up() {
  local switch node name
  switch=$(space switch)
  need ip netns add "$switch"
  need ip -n "$switch" link add bridge0 type bridge
  need ip -n "$switch" link set bridge0 mtu "$mtu" up
  printf '127.0.0.1 localhost\n' >"$state/hosts"
  for ((i = 0; i < nodes; ++i)); do
    name="node$i"
    node=$(space "$name")
    mkdir "$state/$name"
    printf '10.0.0.%d %s\n' $((i + 1)) "$name" >>"$state/hosts"
    printf '%s slots=%d\n' "$name" "${slots[i]}" >>"$state/hostfile"
    need ip netns add "$node"
    need ip link add "$interface" mtu "$mtu" netns "$node" type veth peer name "port$i" mtu "$mtu" netns "$switch"
    need ip -n "$node" link set "$interface" gso_max_segs 1
    need ip -n "$node" address add "10.0.0.$((i + 1))/24" dev "$interface"
    need ip -n "$node" link set lo up
    need ip -n "$node" link set "$interface" up
    need ip -n "$switch" link set "port$i" gso_max_segs 1 master bridge0 up
    limit "$node" "$interface"
    limit "$switch" "port$i"
  done
}

# What a node's interface has sent and received so far.
read_counters() {  # NODE
  ip netns exec "$(space "$1")" sed -n "s/^ *$interface: *//p" /proc/net/dev | awk '{ print $9, $1 }'
}

write_counters() {  # BEFORE AFTER: a line per node
  {
    printf '{"interface": "%s", "rate": "%s", "nodes": [' "$interface" "${rate:-unlimited}"
    paste -d ' ' <(echo "$1") <(echo "$2") | awk '{
      printf "%s\n  {\"name\": \"node%d\", \"tx_bytes\": %d, \"rx_bytes\": %d}", (NR > 1 ? "," : ""), NR - 1, $3 - $1, $4 - $2 }'
    printf '\n]}\n'
  } >"$counters.partial"
  mv "$counters.partial" "$counters"
}

counters_of_all() {
  for ((i = 0; i < nodes; ++i)); do read_counters "node$i"; done
}

bring_up

. "$here/environment.sh"
setting() {  # NAME VALUE: unless the user has set it
  [ -n "${!1:-}" ] || export "$1=$2"
}
# Between nodes TCP over the link, within a node shared memory.
setting OMPI_MCA_pml ob1
setting OMPI_MCA_btl tcp,vader,self
setting OMPI_MCA_btl_tcp_if_include "$interface"
setting OMPI_MCA_oob_tcp_if_include "$interface"
setting OMPI_MCA_btl_tcp_sndbuf 262144
setting OMPI_MCA_btl_tcp_rcvbuf 262144
# Messages are sent, not put: to be put, each waits until its receiver, which may be computing, has looked at it and
# answered, and the answer waits behind the bytes that are queued on the link.
setting OMPI_MCA_btl_tcp_flags 1
# The agent starts a daemon on each node; every node's is started from here.
setting OMPI_MCA_plm rsh
setting OMPI_MCA_plm_rsh_agent "$here/cluster_node.sh"
setting OMPI_MCA_plm_rsh_no_tree_spawn 1
setting OMPI_MCA_ras ^slurm
# Ranks share few cores: who waits must let others run.
setting OMPI_MCA_mpi_yield_when_idle 1
setting OMP_NUM_THREADS 1
setting OMP_WAIT_POLICY passive
export XMOE_LINK_INTERFACE="$interface" XMOE_CLUSTER="$state" XMOE_CLUSTER_OWNER="$$"

before=$(counters_of_all)
# In the background, since the shell acts on a signal only when what it waits for is `wait`.
"$here/cluster_node.sh" node0 -- mpirun --hostfile "$state/hostfile" --map-by slot "$@" <&0 &
launcher=$!
status=0
wait "$launcher" || status=$?
launcher=''
[ -z "$counters" ] || write_counters "$before" "$(counters_of_all)"
exit "$status"

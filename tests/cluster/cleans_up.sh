#!/usr/bin/env bash
# Whatever ends tools/cluster.sh: no process, namespace, link or file of it stays, after SIGKILL once --clean has run. And it says
# what is wrong with its arguments.
#
#   tests/cluster/cleans_up.sh DIRECTORY
set -euo pipefail
cluster="$(dirname "$(realpath "$0")")/../../tools/cluster.sh"
rm -rf "$1"
mkdir -p "$1"
cd "$1"

broken() {
  echo "FAILED: $*" >&2
  exit 1
}

# Two words that no other command has: by them the ranks are found, also outside of the namespaces.
ranks_command=(sleep 97.$$)
ranks() { pgrep -fx "${ranks_command[*]}" | wc -l; }

nothing_left() {  # PID WHAT
  [ "$(ip netns | grep -c "xmoe\.$1\.")" -eq 0 ] || broken "$2: namespaces are left: $(ip netns)"
  [ ! -e "/run/xmoe-cluster/$1" ] || broken "$2: /run/xmoe-cluster/$1 is left"
  local tries=0
  while [ "$(ranks)" -ne 0 ]; do  # a killed process takes a moment to go
    [ $((++tries)) -le 50 ] || broken "$2: $(ranks) ranks still run"
    sleep 0.1
  done
}

links_before=$(ip -o link | wc -l)

status=0
"$cluster" --nodes 2 --ranks-per-node 1 -- true 2>refusal.log || status=$?
[ "$status" -ne 77 ] || { cat refusal.log; exit 77; }
[ "$status" -eq 0 ] || { cat refusal.log; broken "a command that succeeds: exit code $status"; }

status=0
"$cluster" --nodes 2 --ranks-per-node 1 -- sh -c 'exit 3' >/dev/null 2>&1 || status=$?
[ "$status" -eq 3 ] || broken "a command that exits with 3: exit code $status"

for signal in TERM INT HUP KILL; do
  # A background job of a script ignores SIGINT, which a shell cannot take back.
  env --default-signal=INT "$cluster" --nodes 2 --ranks-per-node 2 --rate 1gbit -- "${ranks_command[@]}" >"$signal.log" 2>&1 &
  owner=$!
  tries=0
  while [ "$(ranks)" -ne 4 ]; do
    [ $((++tries)) -le 300 ] || { cat "$signal.log"; broken "$signal: $(ranks) of 4 ranks run after 30 s"; }
    sleep 0.1
  done
  [ "$(ip netns | grep -c "xmoe\.$owner\.")" -eq 3 ] || broken "$signal: expected two nodes and a switch: $(ip netns)"
  [ "$(ip -o link | wc -l)" -eq "$links_before" ] || broken "$signal: the machine's own network has changed: $(ip -o link)"
  kill "-$signal" "$owner"
  status=0
  wait "$owner" || status=$?
  [ "$status" -gt 128 ] || broken "$signal: exit code $status"
  if [ "$signal" = KILL ]; then
    [ "$(ip netns | grep -c "xmoe\.$owner\.")" -eq 3 ] || broken "KILL removed the namespaces: this test shows nothing"
    "$cluster" --clean 2>>KILL.log
  fi
  nothing_left "$owner" "$signal"
done

refused() {  # EXPECTED TEXT, arguments
  local expected="$1" status=0
  shift
  "$cluster" "$@" >refusal.log 2>&1 || status=$?
  [ "$status" -eq 2 ] || broken "$*: exit code $status, expected 2"
  grep -qF -- "$expected" refusal.log || { cat refusal.log; broken "$*: expected '$expected'"; }
}
refused "--nodes is '0'" --nodes 0 --ranks-per-node 1 -- true
refused "lists 2 nodes, --nodes says 3" --nodes 3 --ranks-per-node 2,2 -- true
refused "no command" --nodes 1 --ranks-per-node 1
refused "unknown option '--node'" --node 1
refused "--rate needs a value" --nodes 1 --ranks-per-node 1 --rate
echo "passed"

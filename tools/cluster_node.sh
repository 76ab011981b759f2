#!/usr/bin/env bash
# Runs a command on a node of the emulated cluster: the agent by which mpirun, started by tools/cluster.sh, reaches the nodes.
#
#   tools/cluster_node.sh NODE COMMAND...       the words make up a line of the shell, as with ssh
#   tools/cluster_node.sh NODE -- COMMAND...    runs the command as it is
set -euo pipefail

if [ $# -lt 2 ] || [ -z "${XMOE_CLUSTER:-}" ]; then
  echo "usage: tools/cluster_node.sh NODE [--] COMMAND...   (started by tools/cluster.sh)" >&2
  exit 2
fi

if [ "$1" != --inside ]; then
  # In the node's network, with a host name and mounts of its own.
  export TMPDIR="$XMOE_CLUSTER/$1"
  exec ip netns exec "xmoe.$XMOE_CLUSTER_OWNER.$1" unshare --uts -- "$0" --inside "$@"
fi

hostname "$2"
# `ip netns exec` has made these mounts invisible to others; they end with the last process of the node.
mount --bind "$XMOE_CLUSTER/hosts" /etc/hosts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm  # ranks of different nodes share no memory
shift 2
if [ "$1" = -- ]; then
  shift
  exec "$@"
fi
exec sh -c "$*"

#!/usr/bin/env bash
# Runs a command beside a Slurm of its own on this machine: munged, slurmctld and one slurmd, which stop with it.
#
#   tools/slurm_local.sh [--cpus N] [--directory DIR] -- COMMAND ARGUMENTS
#
# In the command sbatch, srun and their kin talk to this Slurm (SLURM_CONF). It offers one node with N processors (default: 8,
# whether the machine has them or not) and --mpi=pmix. Configuration, state and logs lie in DIR (default: build/slurm); nothing
# of the machine's own configuration is read or changed. Needs root, and the packages slurm-wlm and munge.
#
# Exit code: the command's; 2: wrong usage; 77: this machine does not allow it, the reason is on standard error.
set -euo pipefail

readonly cannot=77

wrong() {
  echo "slurm_local: $*" >&2
  exit 2
}

cannot_here() {
  echo "slurm_local: cannot run here: $*" >&2
  exit "$cannot"
}

cpus=8
directory="$(dirname "$0")/../build/slurm"
while [ $# -gt 0 ]; do
  case "$1" in
    --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    --) shift; break ;;
    --cpus | --directory) [ $# -ge 2 ] || wrong "$1 needs a value" ;;&
    --cpus) cpus="$2" ;;
    --directory) directory="$2" ;;
    *) wrong "unknown option '$1' (the command stands after --)" ;;
  esac
  shift 2
done
[[ "$cpus" =~ ^[1-9][0-9]*$ ]] || wrong "--cpus is '$cpus': expected a number"
[ $# -gt 0 ] || wrong "no command: expected  [--cpus N] [--directory DIR] -- COMMAND ARGUMENTS"

[ "$(id -u)" -eq 0 ] || cannot_here "slurmd starts jobs for others, which needs root"
for program in munged slurmctld slurmd sbatch; do
  command -v "$program" >/dev/null ||
    cannot_here "there is no '$program': tools/install_dependencies.sh slurm installs it"
done

# Sockets have short names, so they lie elsewhere than the rest, which a user may want to read afterwards.
rm -rf "$directory"
mkdir -p "$directory/state" "$directory/spool"
directory="$(realpath "$directory")"
sockets="$(mktemp -d /tmp/xmoe-slurm.XXXXXX)"
chmod 755 "$sockets"

daemons=()
finish() {
  trap '' INT TERM HUP
  set +e
  [ -z "${running:-}" ] || kill -TERM "$running" 2>/dev/null
  if [ -S "$sockets/munge" ] && [ ${#daemons[@]} -gt 1 ]; then
    timeout 10 scancel --full --user root >/dev/null 2>&1
    end_steps
  fi
  local i
  for ((i = ${#daemons[@]} - 1; i >= 0; --i)); do
    kill -TERM "${daemons[i]}" 2>/dev/null
    timeout 10 tail --pid="${daemons[i]}" -f /dev/null || kill -KILL "${daemons[i]}" 2>/dev/null
  done
  rm -rf "$sockets"
}
# Jobs are children of slurmstepd, not of ours: they are waited for, since they use what is about to go.
end_steps() {
  local tries=0
  while [ -n "$(timeout 10 squeue --noheader 2>/dev/null)" ] && [ $((++tries)) -le 50 ]; do sleep 0.2; done
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# start NAME COMMAND...: a daemon in the foreground of a job of ours.
start() {
  local name="$1"
  shift
  "$@" >"$directory/$name.log" 2>&1 </dev/null &
  daemons+=($!)
}

# until_ready WHAT LOG COMMAND...: a machine on which a daemon does not come up within half a minute does not allow it.
until_ready() {
  local what="$1" log="$directory/$2.log" tries=0
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ $((++tries)) -gt 150 ] || ! kill -0 "${daemons[-1]}" 2>/dev/null; then
      cannot_here "$what did not come up; the end of $log: $(tail -n 3 "$log" 2>/dev/null)"
    fi
    sleep 0.2
  done
}

# Two ports that nobody listens on, derived from the number of this process so that two of these do not meet.
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
port=$((20000 + 2 * ($$ % 6000)))
while listens "$port" || listens $((port + 1)); do port=$((port + 2)); done

dd if=/dev/urandom of="$directory/munge.key" bs=128 count=1 status=none
chmod 400 "$directory/munge.key"
start munged munged --foreground --force --key-file "$directory/munge.key" --socket "$sockets/munge" \
  --pid-file "$sockets/munged.pid" --log-file "$directory/munge_own.log" --seed-file "$directory/munge.seed"
until_ready munged munged test -S "$sockets/munge"

host="$(hostname -s)"
cat >"$directory/slurm.conf" <<END
ClusterName=xmoe
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$sockets/munge
StateSaveLocation=$directory/state
SlurmdSpoolDir=$directory/spool
SlurmctldPidFile=$sockets/slurmctld.pid
SlurmdPidFile=$sockets/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=pmix
SwitchType=switch/none
ReturnToService=2
KillWait=10
# The processors are those that were asked for, not those that slurmd finds.
SlurmdParameters=config_overrides
NodeName=localnode NodeHostname=$host NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=all Nodes=localnode Default=YES MaxTime=INFINITE State=UP
END
# Read even where no plug-in uses control groups.
echo 'CgroupAutomount=no' >"$directory/cgroup.conf"
export SLURM_CONF="$directory/slurm.conf"

start slurmctld slurmctld -D -f "$SLURM_CONF"
until_ready slurmctld slurmctld listens "$port"
start slurmd slurmd -D -f "$SLURM_CONF" -N localnode
idle() { sinfo --noheader --format=%T 2>/dev/null | grep -q '^idle'; }
until_ready slurmd slurmd idle

status=0
"$@" <&0 &
running=$!
wait "$running" || status=$?
running=''
exit "$status"

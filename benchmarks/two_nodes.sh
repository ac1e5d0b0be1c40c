#!/bin/bash
#
# Two nodes on one machine: run a program under mpirun on two network namespaces that are nodes to
# MPI (names of their own, no shared memory between them, TCP over one link of 1 Gbit/s each).
#
#     benchmarks/two_nodes.sh -n 4 python -m hpcpar.train --steps 20      # 2 ranks on each node
#     benchmarks/two_nodes.sh -n 2 -r 100mbit python benchmarks/sockets.py
#
# It takes root and Debian's iproute2. Everything lives in namespaces that end with this script, so
# no bridge, node or process is left behind, also when it is killed, and several can run at a time.
# Every end of a link is limited by a token bucket (tc-tbf(8)): the first 2 MB after a pause go
# at full speed, so compare with sockets.py in the same run.
set -euo pipefail

usage() {
    echo "usage: benchmarks/two_nodes.sh -n RANKS [-r RATE] COMMAND..." >&2
    exit 2
}

if [[ ${1:-} != --inside ]]; then
    ((EUID == 0)) || { echo "two_nodes.sh: making network namespaces takes root" >&2; exit 2; }
    PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
    for program in ip tc nsenter unshare; do
        [[ -n $(type -P $program) ]] || { echo "two_nodes.sh: there is no $program" >&2; exit 2; }
    done
    exec unshare --mount --net --uts --pid --fork --kill-child --mount-proc bash "$0" --inside "$@"
fi
shift

ranks=0 rate=1gbit
while getopts n:r: option; do
    case $option in
    n) ranks=$OPTARG ;;
    r) rate=$OPTARG ;;
    *) usage ;;
    esac
done
shift $((OPTIND - 1))
((ranks >= 2 && ranks % 2 == 0 && $# > 0)) || usage

# Process ids begin at 1 in here, and MPI names its files by them: those of several networks at a time
# must not meet, in the scratch folder nor in shared memory.
mount -t tmpfs -o mode=755 none /run
mount -t tmpfs -o mode=1777 none /dev/shm
mkdir /run/scratch
ip link set lo up
ip link add switch type bridge
ip link set switch up
hosts=
for node in 0 1; do
    address=10.88.0.$((node + 1))
    ip netns add node$node
    ip link add port$node type veth peer name eth0 netns node$node
    ip link set port$node master switch up
    ip -n node$node addr add $address/24 dev eth0
    ip -n node$node link set lo up
    ip -n node$node link set eth0 up
    for end in "tc" "tc -n node$node"; do
        device=$([[ $end == tc ]] && echo port$node || echo eth0)
        $end qdisc add dev "$device" root tbf rate "$rate" burst 2mb limit 64mb
    done
    hosts+=${hosts:+,}$address:$((ranks / 2))
done

# What mpirun calls in place of ssh: HOST COMMAND...
cat >/run/agent <<'END'
#!/bin/bash
node=node$((${1##*.} - 1))
shift
exec nsenter --net=/run/netns/$node unshare --uts bash -c "hostname $node; $*"
END
chmod +x /run/agent

export TMPDIR=/run/scratch TWO_NODES_ADDRESS=10.88.0.1
export PRTE_MCA_plm_ssh_agent=/run/agent PRTE_MCA_prte_if_include=eth0
export OMPI_MCA_btl_tcp_if_include=eth0
mpirun=$(dirname "$(readlink -f "$0")")/../tools/mpirun
place=ppr:$((ranks / 2)):node:oversubscribe
# Not in this process, which nobody in here could kill: its number is 1.
/run/agent 10.88.0.1 \
    "$(printf '%q ' "$mpirun" --host "$hosts" --map-by "$place" -n "$ranks" "$@")"

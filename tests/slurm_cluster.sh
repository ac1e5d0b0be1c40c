# A Slurm cluster on one machine, for slurm_cluster.py, which starts this script as the first
# process in process, mount, network and host name namespaces of its own:
#
#     bash slurm_cluster.sh NODES CPUS GPUS      # CPUS and (make-believe) GPUS are of each node
#
# It prints "up" and waits for the end of its standard input. When it ends, however it ends, the
# kernel takes away every process, mount and network device that it has made; nothing is written
# outside the file system in memory that it mounts first.
set -euo pipefail
nodes=$1 cpus=$2 gpus=$3
last=$((nodes - 1))

mount -t tmpfs -o mode=755 none /run
mkdir -p /run/munge /run/slurm /run/local
export SLURM_CONF=/run/slurm/slurm.conf TMPDIR=/run/local
cd /run/slurm

# One switch, and this machine at it as the login node: 10.88.0.254.
hostname login
ip link set lo up
ip link add switch type bridge
ip link set switch up
ip addr add 10.88.0.254/24 dev switch
for ((i = 0; i < nodes; i++)); do
    ip netns add node$i
    ip link add port$i type veth peer name eth0 netns node$i
    ip link set port$i master switch up
    ip -n node$i addr add 10.88.0.$((i + 1))/24 dev eth0
    ip -n node$i link set eth0 up
    ip -n node$i link set lo up
done

# MpiDefault=none is what many sites have: plain srun then starts programs that know nothing of
# each other. A requeued job waits until its old credentials have expired, so they live shortly,
# and then for the scheduler to look again.
cat >slurm.conf <<END
ClusterName=test
SlurmctldHost=node0(10.88.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=15
SchedulerParameters=sched_interval=1
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
SlurmdParameters=config_overrides
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurm/%n.pid
SlurmdSpoolDir=/run/slurm/%n
StateSaveLocation=/run/slurm/state
PartitionName=main Nodes=ALL Default=YES State=UP
END
for ((i = 0; i < nodes; i++)); do
    echo "NodeName=node$i NodeAddr=10.88.0.$((i + 1)) CPUs=$cpus Gres=gpu:$gpus" >>slurm.conf
done
for ((i = 0; i < gpus; i++)); do
    mknod gpu$i c 1 3
done
echo "NodeName=node[0-$last] Name=gpu File=/run/slurm/gpu[0-$((gpus - 1))]" >gres.conf
echo "PMIxCliTmpDirBase=/run/local" >mpi.conf

(umask 077 && head -c 128 /dev/urandom >munge.key)
munged --foreground --key-file=/run/slurm/munge.key --socket=/run/munge/munge.socket.2 \
    --pid-file=/run/munge/munged.pid --seed-file=/run/munge/munged.seed \
    </dev/null &>munged.log &
timeout 20 bash -c 'until [[ -S /run/munge/munge.socket.2 ]]; do sleep 0.02; done'

# on I COMMAND...: run a command on node I, in the background. A node has its own scratch folder and
# shared memory; all else is one file system.
on() {
    local i=$1
    shift
    nsenter --net=/run/netns/node$i unshare --uts --mount bash -c '
        hostname "$0"
        mount -t tmpfs none /run/local
        mount -t tmpfs none /dev/shm
        exec "$@"' node$i "$@" </dev/null &>"/run/slurm/$1.node$i.log" &
}
on 0 slurmctld -D
for ((i = 0; i < nodes; i++)); do
    on $i slurmd -D -N node$i
done

echo up
read -r -t 3600 || true # no cluster outlives the hour, whatever holds it

# The beginning of every script here: the environment, and the data on the local disk. Adapt it to your cluster, once.

# 1. The environment in which the trainer is installed. Keep what applies; without any, that of `sbatch` is inherited.
# module load cuda
# . "$HOME/venvs/monodepth/bin/activate"
# . "$HOME/miniconda3/etc/profile.d/conda.sh" && conda activate monodepth

# 2. Data. A network disk is slow at a hundred thousand small pictures, so copy the data to the machine first: set STAGE
# to its folder (best a packed one: `prepare lmdb`), which becomes dataset.root of the training:
#   STAGE=/shared/kitti_lmdb sbatch launch/slurm/single_node.sbatch ...
# What is there already is not copied again. Data sets with a `path` instead of a root: change the last line.
if [ -n "${STAGE:-}" ]; then
  data=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/$(basename "$STAGE")
  copy=(bash -c 'mkdir -p "$1" && rsync -a "$0/" "$1/"' "$STAGE" "$data")
  if [ "${SLURM_NNODES:-1}" -gt 1 ]; then # every machine has a disk of its own
    copy=(srun --ntasks-per-node=1 "${copy[@]}")
  fi
  "${copy[@]}" || exit 1
  set -- "$@" --set "dataset.root=$data"
fi

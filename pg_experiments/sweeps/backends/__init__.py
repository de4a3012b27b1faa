"""Where batches are trained: processes of this machine, a Ray cluster, or Slurm through submitit."""

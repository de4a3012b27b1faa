"""Sweeps: from the jobs that Hydra hands over to batches of runs on workers, and back to one folder per job."""

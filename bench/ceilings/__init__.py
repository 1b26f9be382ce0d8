"""What the figures are measured against: programs that do a part of the work and nothing else."""

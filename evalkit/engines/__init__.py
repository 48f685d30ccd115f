"""Who runs the units of work: this process, a process per device, stripes of a gang, Slurm, Ray."""

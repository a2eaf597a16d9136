"""Starting runs elsewhere: on TPU VMs, on GKE, with Slurm. README.md walks through each."""

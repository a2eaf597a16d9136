"""Starting runs elsewhere: on TPU VMs, on GKE, with Slurm. README.md leads through each."""

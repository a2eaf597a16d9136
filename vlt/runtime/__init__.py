"""Processes, meshes of devices, compiled programs, and how a run is stopped."""

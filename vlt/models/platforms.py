"""The platform that a program is traced for."""

import jax


def traced_for() -> str:
    """`cpu`, `tpu` or `gpu`: the platform of the current mesh, else of the default device.

    The devices of a mesh need not be this machine's.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.abstract_device is not None:
        return str(mesh.abstract_device.platform)
    device = getattr(jax.config, "jax_default_device", None)
    return str(getattr(device, "platform", device) or jax.default_backend())

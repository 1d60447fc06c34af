"""A run cannot be killed: processes ended, files damaged, disks full, and the bytes of an undisturbed run."""

"""Pictures made worse on purpose, at five levels: the 18 corruptions of KITTI-C (arXiv:2310.15171)."""

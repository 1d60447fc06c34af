"""The folder layout of raw KITTI: files, calibration, items, depth hints, evaluation targets."""

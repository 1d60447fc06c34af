"""Videos and folders of frames: poses, intrinsics, and which frames make an item."""

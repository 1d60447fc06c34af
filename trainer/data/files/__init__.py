"""Reading and checking files of any data set: arrays, depth maps, headers, LMDB, pickles, split lists."""

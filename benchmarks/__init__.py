"""Speed measurements that `make bench` prints; what presses do to answers is measured in `evaluation`."""

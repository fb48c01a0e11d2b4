"""What callbacks cost: `make bench`."""

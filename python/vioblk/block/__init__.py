"""The block device: configuration, limits, requests, and the disk that people use."""

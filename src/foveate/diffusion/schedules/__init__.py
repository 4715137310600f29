"""Schedules of masked-diffusion decoding; one file each, found by file name."""

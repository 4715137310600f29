"""Methods of this stage; one file each, found by file name."""

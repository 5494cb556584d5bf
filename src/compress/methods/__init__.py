"""The compression methods: one file or folder for each choice of `method=`."""

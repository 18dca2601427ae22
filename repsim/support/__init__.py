"""What every room needs: files, paths, labels, messages, progress, devices, versions of other packages."""

"""Foundations of every room: files, paths, labels, messages, progress, devices, versions of packages."""

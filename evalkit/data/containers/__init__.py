"""What holds images: a folder, an archive, a remote folder, a table."""

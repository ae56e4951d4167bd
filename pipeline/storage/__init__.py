"""Files: store paths, atomic writes, locks, Arrow files, schemas and the node cache."""

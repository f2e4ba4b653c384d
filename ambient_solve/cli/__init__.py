"""The command line, one file a command; imported by nothing but `ambient_solve.__main__` and the doors."""

"""The command line: notebooks headless, their parameters, the dry run."""

"""The method of the paper and nothing else: read it in an hour, in the order of README."""

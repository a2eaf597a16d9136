"""Running a model over one's own videos: what the Python interface and commands (doors) share.

A door finds its videos (`discover`), maps a function over batches of them (`batching`, which reads
ahead with `prefetch`), and prints the results (`printing`); `vlt.door` has the rest of a command.
"""

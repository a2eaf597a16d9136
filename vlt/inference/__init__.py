"""A model over one's own video files: what the Python interface and the commands (doors) share.

A door finds its videos (`discover`), maps a function over batches of them (`batching`, which reads
ahead with `prefetch`), and prints what comes (`printing`); `vlt.door` has the rest of a command.
"""

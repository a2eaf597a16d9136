"""A file to exact frames: containers, decoders, spans, sampling, transforms; files of strangers."""

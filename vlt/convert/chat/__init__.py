"""Chat models, which are put together from parts that were published apart."""

"""What programs cost: operations, bytes, and what accelerators have of both."""

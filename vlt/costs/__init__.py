"""What programs cost in operations and bytes, and what accelerators offer of both."""

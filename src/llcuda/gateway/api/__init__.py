"""What requests may hold, what answers look like, and the OpenAPI document of both."""

"""The gRPC edge: requests in, calls into the synchronous core, errors out as status codes."""

"""The distribution API client: the only package that speaks HTTP. A header is never evidence; a hash is."""

"""The store: blobs by digest, trees by plan, and one database. What is visible in it is complete and verified."""

"""What is wrong with a node, or with how it would get an artifact: checks that look and change nothing."""

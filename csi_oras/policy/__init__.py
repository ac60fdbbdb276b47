"""Policy: what this node may pull, whoever asks."""

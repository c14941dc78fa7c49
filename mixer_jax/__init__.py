"""Image to multi-modal retrieval: from click logs to ranked answers."""

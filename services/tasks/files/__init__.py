"""What jobs made: where its bytes are kept, who may read them, and when they go."""

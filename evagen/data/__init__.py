"""Real videos in, clips out: files, folders, and the Arcade builder."""

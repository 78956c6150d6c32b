"""What a checkpoint is published with, and how: its model card, and the way to a hub."""

"""The Model Context Protocol: compressed videos as tools for agents."""

"""Where questions about videos come from: the MovingShapes world and the layouts of the public sets."""

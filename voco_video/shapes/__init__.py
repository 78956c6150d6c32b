"""MovingShapes: scenes of coloured shapes that move, questions about them with true answers, and clips of them."""

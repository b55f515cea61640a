"""Training: mesh, optimizer, state, step, loop, stages, checkpoints."""

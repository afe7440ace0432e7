"""The benchmark of differentiable quadratic programs: ours and every installed peer, in interleaved rounds."""

"""What makes the evidence: benchmarks, reproduction, ablations. Nothing imports it."""

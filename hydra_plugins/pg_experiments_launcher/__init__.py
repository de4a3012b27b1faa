"""What Hydra finds by itself: the launcher `batched` and the sweeper `grid`. Hydra imports this at every start."""

"""View transforms: aerial pictures to what the aerial backbone sees, one module for transforms of a kind."""

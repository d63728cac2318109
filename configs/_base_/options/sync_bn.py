# Batch norms of the heads see the images of all processes.
sync_bn = "torch"

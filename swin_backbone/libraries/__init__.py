"""Our backbone among the models of other libraries: importing a file registers it there."""

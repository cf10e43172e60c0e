"""The sagas that `make e2e` deploys; in the artifact this folder is the package `sagas`."""

"""What a cluster needs: files to copy and adapt, and hosts to try and test on (`cluster.hosts`)."""

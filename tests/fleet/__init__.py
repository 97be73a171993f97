"""Two servers in front of four model servers that come and go: nobody notices, and talks stay where their cache is."""
